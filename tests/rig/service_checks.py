"""What is looked at while a model is served on a rig's cluster, from the laptop that owns it and by a stranger."""

import json
import signal
import stat
from pathlib import Path

from raylaunch.base.processes import wait_until
from tests.rig.host import Host
from tests.rig.owner import CONTAINER, Owner, wait_for_line

READY_DEADLINE_S = 300.0
ROOT = Path(__file__).resolve().parents[2]


def is_ready(laptop: Owner) -> bool:
    """Whether the one service of the cluster answers."""
    status = laptop.run("status", "--json", "--cluster", str(laptop.cluster_file))
    return status.returncode == 0 and bool(json.loads(status.stdout)["ready"])


def check_load_from_both_hosts(laptop: Owner, tmp_path: Path) -> None:
    """As a Ray job from the laptop, files brought home; as a script through `ray submit`. The key is found there."""
    result = tmp_path / "load.json"
    load = ("--concurrency", "2", "--requests", "4", "--max-tokens", "4", "--warmup", "0", "--force")
    done = laptop.must("bench", *load, "--cluster", str(laptop.cluster_file), "-o", str(result))
    assert "2 at once: 4 requests" in done.stdout
    read = json.loads(result.read_text())
    assert (read["requests_ok"], len(read["client"]["shards"])) == (4, 2)
    assert sorted(read["nodes"]) == sorted(host.address for host in laptop.rig.hosts)
    assert result.with_suffix(".rows.jsonl.gz").exists()
    assert result.with_suffix(".html").exists()
    script = ROOT / "benchmarks" / "job.py"
    submitted = laptop.must("submit", str(laptop.cluster_file), str(script), *load, program="ray")
    assert "2 at once: 4 requests" in submitted.stdout + submitted.stderr


def check_top(laptop: Owner, output: Path) -> None:
    """Every rank of both hosts is seen from the laptop, once and for a while; nothing goes on looking afterwards."""
    on = ("--cluster", str(laptop.cluster_file))
    view = json.loads(laptop.must("top", "--once", "--json", *on).stdout)
    assert sorted(rank for node in view["nodes"] for gpu in node["gpus"] for rank in gpu["ranks"]) == [0, 1, 2, 3]
    looking, output = laptop.start("top", *on, output=output)
    wait_for_line(output, looking, f"http://{laptop.rig.head.address}:8080", READY_DEADLINE_S)
    looking.send_signal(signal.SIGINT)
    assert looking.wait(30) == 0
    shown = output.read_text()
    for text in ("ready for", "r0", "r3", *(host.address for host in laptop.rig.hosts)):
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


def check_texts_on_the_laptop(laptop: Owner) -> None:
    """What the verbs print at 80 columns while it serves: never "this machine", and commands that work as printed."""
    on = "--cluster cluster.yaml"
    for verb in ("status", "top --once", "incidents", "incidents none"):
        typed = laptop.type(f"raylaunch {verb} {on}")
        assert typed.status == (1 if "none" in verb else 0), typed.text
        assert "this machine" not in typed.text
        assert "127.0.0.1" not in typed.text
        typed.check_width()
        for command in typed.commands:
            assert laptop.type(command).status == 0, command
    asked = laptop.type("raylaunch down cluster.yaml </dev/null")
    assert (asked.status, asked.commands) == (1, ["raylaunch down cluster.yaml --yes"]), asked.text


def check_a_refused_serve(laptop: Owner, launch: Path) -> None:
    """Another launch on the port that is taken: refused, its cause printed once; what `restart` reads is as it was."""
    other = launch.with_name("other.yaml")
    other.write_text(launch.read_text().replace("rig/model", "rig/other"))
    refused = laptop.type(f"raylaunch serve {other} --rehearse --cluster cluster.yaml")
    assert refused.status == 1
    assert refused.text.count("is taken") == 1, refused.text
    assert "Runtime env" not in refused.text
    status = json.loads(laptop.must("status", "--json", "--cluster", str(laptop.cluster_file)).stdout)
    kept = laptop.rig.head.run(f"docker exec {CONTAINER} cat {status['launch_file']}").stdout
    assert "rig/model" in kept
    again = laptop.type(f"raylaunch restart {other} --set server.host=127.0.0.1 --cluster cluster.yaml")
    assert (again.status, "cannot change the address" in again.text) == (1, True), again.text
