"""What is looked at while a model is served on a rig's cluster, from the laptop that owns it and by a stranger."""

import json
import signal
import stat
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from raylaunch.base import versions
from raylaunch.base.processes import wait_until
from raylaunch.config import cluster_ports as ports
from tests.e2e.harness import find_free_port
from tests.rig.host import Host
from tests.rig.owner import CONTAINER, Owner, wait_for_line

READY_DEADLINE_S = 300.0
ROOT = Path(__file__).resolve().parents[2]


def is_ready(laptop: Owner) -> bool:
    """Whether the one service of the cluster answers."""
    status = laptop.run("status", "--json", "--cluster", str(laptop.cluster_file))
    return status.returncode == 0 and bool(json.loads(status.stdout)["ready"])


def check_load_results(laptop: Owner, result: Path) -> None:
    """What `bench --cluster` brought home: requests of both hosts, each request's figures, the report."""
    read = json.loads(result.read_text())
    assert (read["requests_ok"], len(read["client"]["shards"])) == (4, 2)
    assert sorted(read["nodes"]) == sorted(host.address for host in laptop.rig.hosts)
    assert result.with_suffix(".rows.jsonl.gz").exists()
    assert result.with_suffix(".html").exists()


def check_ranks_in_top(laptop: Owner, ranks: list[int]) -> None:
    """Every rank of both hosts is seen from the laptop."""
    view = json.loads(laptop.must("top", "--once", "--json", "--cluster", str(laptop.cluster_file)).stdout)
    assert sorted(rank for node in view["nodes"] for gpu in node["gpus"] for rank in gpu["ranks"]) == ranks


def check_top(laptop: Owner, output: Path) -> None:
    """It looks until Ctrl-C, and nothing goes on looking afterwards."""
    looking, output = laptop.start("top", "--cluster", str(laptop.cluster_file), output=output)
    wait_for_line(output, looking, f"http://{laptop.rig.head.address}:8080", READY_DEADLINE_S)
    looking.send_signal(signal.SIGINT)
    assert looking.wait(30) == 0
    shown = output.read_text()
    for text in ("ready for", "r0", "r1", *(host.address for host in laptop.rig.hosts)):
        assert text in shown
    assert wait_until(
        lambda: "monitor_process" not in laptop.rig.head.run("cat /proc/[0-9]*/cmdline", check=False).stdout, 30
    )


def check_strangers_at_the_api(laptop: Owner, stranger: Host) -> None:
    """The API without its key answers 401, with a wrong one too; the key itself is in the laptop's file alone."""
    [key] = laptop.home.glob(".raylaunch/clusters/*/keys/8080")
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    url = f"http://{laptop.rig.head.address}:8080/v1/models"
    ask = "curl -s -o /dev/null -w '%{http_code}'"
    assert stranger.run(f"{ask} {url}").stdout == "401"
    assert stranger.run(f"{ask} -H 'Authorization: Bearer wrong' {url}").stdout == "401"
    for host in laptop.rig.hosts:
        assert key.read_text() not in host.run("cat /proc/[0-9]*/cmdline | tr '\\0' ' '").stdout


def check_the_cluster_is_closed(laptop: Owner, stranger: Host) -> None:
    """A third host without the token: GCS, client port, dashboard, jobs, agents, object manager refuse it."""
    head = laptop.rig.head.address
    # The stranger has this machine's programs, and none of its secrets.
    script = Path(__file__).with_name("strangers.py")
    done = stranger.run(f"cd /tmp && PYTHONPATH={ROOT} {sys.executable} {script} {head}", timeout_s=200)
    answers = json.loads(done.stdout.splitlines()[-1])
    assert answers == dict.fromkeys(answers, "refused")
    assert set(answers) >= {"GCS", "Ray client", "dashboard", "jobs API", "object manager", "join with a wrong token"}
    assert len(laptop.count_gpus()) == 2
    listening = laptop.rig.head.run("ss -ltn | awk '{print $4}'").stdout.split()
    assert f"127.0.0.1:{ports.DASHBOARD}" in listening


def check_token_is_private(laptop: Owner) -> None:
    """Mode 0600 on the laptop; in no argument of any process, no log of ours, no container's configuration."""
    [token] = laptop.home.glob(".raylaunch/clusters/*/token/auth_token")
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    secret = token.read_text()
    assert len(secret) == 64
    [log] = laptop.home.glob(".raylaunch/clusters/*/up.log")
    assert secret not in log.read_text() + laptop.transcript.read_text()
    for host in laptop.rig.hosts:
        seen = host.run(f"cat /proc/[0-9]*/cmdline | tr '\\0' ' '; docker inspect {CONTAINER}").stdout
        assert secret not in seen


def check_dashboard(laptop: Owner, output: Path) -> None:
    """A way to it on the laptop's loopback, for who has the token; Ctrl-C closes it."""
    port = find_free_port()
    process, output = laptop.start("dashboard", str(laptop.cluster_file), "--port", str(port), output=output)
    wait_for_line(output, process, "Ctrl-C closes")
    [token] = laptop.home.glob(".raylaunch/clusters/*/token/auth_token")
    url = f"http://127.0.0.1:{port}/api/version"
    asked = urllib.request.Request(url, headers={"Authorization": f"Bearer {token.read_text()}"})
    with urllib.request.urlopen(asked, timeout=20) as answer:
        assert json.load(answer)["ray_version"] == versions.RAY
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(url, timeout=20)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
    assert token.read_text() not in output.read_text()


def check_a_refused_serve(laptop: Owner, launch: Path) -> None:
    """Another launch on the port that is taken: refused, its cause printed once; what `restart` reads is as it was."""
    other = launch.with_name("other.yaml")
    other.write_text(launch.read_text().replace("rig/model", "rig/other"))
    refused = laptop.type(f"raylaunch serve {other.name} --rehearse --cluster cluster.yaml")
    assert refused.status == 1
    assert refused.text.count("is taken") == 1, refused.text
    assert "Runtime env" not in refused.text
    assert int(refused.text.rpartition("server.port=")[2].split()[0]) not in ports.NAMES  # which Ray has
    status = json.loads(laptop.must("status", "--json", "--cluster", str(laptop.cluster_file)).stdout)
    kept = laptop.rig.head.run(f"docker exec {CONTAINER} cat {status['launch_file']}").stdout
    assert "rig/model" in kept
    again = laptop.type(f"raylaunch restart {other.name} --set server.host=127.0.0.1 --cluster cluster.yaml")
    assert (again.status, "cannot change the address" in again.text) == (1, True), again.text
