"""A cluster from nothing to nothing: up, a model over two hosts, strangers at its ports, and down again and again."""

import json
import os
import signal
import stat
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from raylaunch.base import versions
from raylaunch.base.processes import wait_until
from raylaunch.config import cluster_ports as ports
from raylaunch.provision.template import ClusterPlan, write
from tests.e2e.harness import find_free_port
from tests.hub_server import Hub, serve
from tests.rig.host import Host
from tests.rig.host import wait_until as host_wait_until
from tests.rig.image import CACHE, LOGICAL_GPUS, find_docker_folder
from tests.rig.images import write_small_image
from tests.rig.owner import CONTAINER, Owner, bring_out_of_step, find_image, wait_for_line
from tests.rig.rig import start_rig
from tests.rig.service_checks import (
    READY_DEADLINE_S,
    check_a_refused_serve,
    check_load_from_both_hosts,
    check_strangers_at_the_api,
    check_texts_on_the_laptop,
    check_top,
    is_ready,
)
from tests.rig.typed import list_commands
from tests.test_readme import read_commands

pytestmark = [pytest.mark.root, pytest.mark.rig]

LAUNCH = """\
model: {repo: rig/model, path: /data/model}
cluster: {nodes: 2, gpus_per_node: 2, wait_s: 60}
engine: {tensor_parallel_size: 2, pipeline_parallel_size: 2, dtype: float32}
server: {host: 0.0.0.0, port: 8080}
"""
DRIVER = """\
import ray
ray.init(address="auto")
print("hosts", len({ray.get(task) for task in [
    ray.remote(lambda: ray.util.get_node_ip_address()).options(scheduling_strategy="SPREAD", num_gpus=1).remote()
    for _ in range(4)]}))
"""
FAILED_DEADLINE_S = 300.0
LOST_DEADLINE_S = 60.0
"""Of a host that is gone; it takes some 25 s, Ray's launcher alone 900."""
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def laptop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Owner]:
    """Two hosts with two GPUs each and the official image's stand-in, and the laptop that owns them."""
    docker_folder = find_docker_folder()
    with (
        tempfile.TemporaryDirectory(prefix="life-", dir=CACHE) as disks,  # beside the image: its files are hard links
        start_rig(Path(disks) / "hosts", docker_folder=docker_folder, shared=(ROOT, Path(sys.base_prefix))) as rig,
    ):
        for host in rig.hosts:
            host.write("/etc/rig-gpus", f"COUNT={LOGICAL_GPUS}\n")
        yield Owner.of(rig, tmp_path_factory.mktemp("life"))


@pytest.fixture(scope="module")
def stranger(laptop: Owner) -> Host:
    """A third host on the same network, with nothing of the cluster's secrets."""
    return laptop.rig.add_stranger()


def test_different_images_are_refused(laptop: Owner, tmp_path: Path) -> None:
    """A different image on each host by one name: reported before Ray's launcher begins."""
    for number, host in enumerate(laptop.rig.hosts):
        host.import_image(write_small_image(tmp_path / f"{number}.tar"), "rig/small:1", f"ENV NUMBER={number}")
    file = tmp_path / "cluster.yaml"
    hosts = [host.address for host in laptop.rig.hosts]
    write(ClusterPlan(hosts=hosts, user="root", key=str(laptop.rig.key), name="rig", image="rig/small:1"), file)
    refused = laptop.run("up", str(file))
    assert refused.returncode == 1
    assert f"failed: image on {hosts[1]}\n    rig/small:1 is a different image" in refused.stderr
    assert "nothing was changed" in refused.stderr
    head = laptop.rig.head
    head.run("docker tag rig/small:1 rig/other:1; docker save rig/other:1 >/tmp/other.tar; docker rmi rig/other:1")
    useless = laptop.run("up", str(file), "--image-archive", str(head.disk / "tmp" / "other.tar"))
    assert useless.returncode == 1
    assert "have different images by the name rig/small:1, though" in useless.stderr
    assert laptop.list_traces() == []
    for host in laptop.rig.hosts:
        host.run("docker rmi rig/small:1; docker rmi rig/other:1 2>/dev/null; rm -f /tmp/other.tar")


def test_init_and_doctor_name_the_next_command(laptop: Owner) -> None:
    """At 80 columns: init ends with doctor, doctor with up; a wrong host writes nothing."""
    hosts = ",".join(host.address for host in laptop.rig.hosts)
    wrong = laptop.type(f"raylaunch init new.yaml --hosts {hosts}:22 --user root --key {laptop.rig.key}")
    assert (wrong.status, "an address without a port" in wrong.text) == (1, True)
    written = laptop.type(f"raylaunch init new.yaml --hosts {hosts} --user root --key {laptop.rig.key} --name rig")
    assert (written.status, written.commands) == (0, ["raylaunch doctor new.yaml"])
    checked = laptop.type(written.commands[0])
    checked.check_width()
    assert (checked.status, checked.commands) == (0, ["raylaunch up new.yaml"]), checked.text
    assert " checks ok" in checked.text
    laptop.cluster_file.write_text((laptop.cluster_file.parent / "new.yaml").read_text())


def test_up_brings_in_every_gpu(laptop: Owner) -> None:
    """After one that was interrupted; each host has its GPUs, and its own address and interface in its environment."""
    stopped = laptop.type("raylaunch up cluster.yaml", interrupt_at=f"{laptop.rig.head.address}: ")  # its first stage
    assert (stopped.status, stopped.commands) == (130, ["raylaunch up cluster.yaml", "raylaunch down cluster.yaml"])
    state = laptop.type("raylaunch status --cluster cluster.yaml")
    assert (state.status, state.commands[-1:]) == (1, ["raylaunch up cluster.yaml"]), state.text
    assert laptop.type("raylaunch doctor cluster.yaml").commands == ["raylaunch up cluster.yaml"]
    up = laptop.type(stopped.commands[0])
    up.check_width()
    assert up.status == 0, up.text
    assert up.commands[-1] == "raylaunch serve LAUNCH.yaml --cluster cluster.yaml"
    printed = up.text
    addresses = [host.address for host in laptop.rig.hosts]
    assert laptop.count_gpus() == dict.fromkeys(addresses, LOGICAL_GPUS)
    assert f"2 hosts, {2 * LOGICAL_GPUS} GPUs" in printed
    for host in laptop.rig.hosts:
        variables = host.run(f"docker exec {CONTAINER} env").stdout.splitlines()
        assert f"VLLM_HOST_IP={host.address}" in variables
        assert {"NCCL_SOCKET_IFNAME=eth0", "GLOO_SOCKET_IFNAME=eth0"} <= {*variables}


def test_token_is_private(laptop: Owner) -> None:
    """Mode 0600 on the laptop; in no argument of any process, no log of ours, no container's configuration."""
    [token] = laptop.home.glob(".raylaunch/clusters/*/token/auth_token")
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    secret = token.read_text()
    assert len(secret) == 64
    [log] = laptop.home.glob(".raylaunch/clusters/*/up.log")
    assert secret not in log.read_text()
    for host in laptop.rig.hosts:
        seen = host.run(f"cat /proc/[0-9]*/cmdline | tr '\\0' ' '; docker inspect {CONTAINER}").stdout
        assert secret not in seen


def test_the_model_comes_onto_bare_hosts(laptop: Owner) -> None:
    """`weights pull` from the laptop, of a hub that the hosts reach: once from there, then from host to host; `rm`."""
    files = {"config.json": b"{}", "model.safetensors": os.urandom(3_000_000)}
    folder = laptop.cluster_file.parent
    (folder / "pulled.yaml").write_text(LAUNCH.replace("/data/model", "/data/pulled"))
    on = "pulled.yaml --cluster cluster.yaml"
    with serve(Hub("rig/model", files), host=laptop.rig.laptop_address) as hub:
        pulled = laptop.type(f"HF_ENDPOINT={hub.url} raylaunch weights pull {on}")
    assert pulled.status == 0, pulled.text
    assert hub.count_sent() < 4_000_000
    for host in laptop.rig.hosts:
        assert host.run("cat /data/pulled/model.safetensors | wc -c").stdout.strip() == "3000000"
    assert laptop.type(f"raylaunch weights check {on}").status == 0
    assert laptop.type(f"raylaunch weights rm --yes {on}").status == 0
    assert laptop.rig.workers[0].run("ls /data/pulled 2>/dev/null", check=False).stdout == ""


def test_a_model_over_two_hosts(laptop: Owner, stranger: Host, tmp_path: Path) -> None:
    """TP=2 x PP=2 by `up --serve`, as a Ray job: asked, outliving the laptop, undisturbed by a second up."""
    launch = tmp_path / "launch.yaml"
    launch.write_text(LAUNCH)
    on = ("--cluster", str(laptop.cluster_file))
    serving, output = laptop.start(
        "up", str(laptop.cluster_file), "--serve", str(launch), "--rehearse", output=tmp_path / "serve.txt"
    )
    wait_for_line(output, serving, "is up already", READY_DEADLINE_S)
    wait_for_line(output, serving, "ends it", READY_DEADLINE_S)
    serving.send_signal(signal.SIGINT)  # Ctrl-C leaves the service alone, and prints how to stop it
    assert serving.wait(30) == 0
    *try_it, stop = list_commands(output.read_text())
    assert stop == f"raylaunch stop --port=8080 --cluster {laptop.cluster_file}"
    assert [line.split()[1] for line in try_it if line.startswith("raylaunch")][:2] == ["ask", "stop"]
    for line in try_it:
        if " stop " not in line and " -f" not in line:
            typed = laptop.type(line)
            assert typed.status == 0, typed.text
    assert "starting the workers | " in output.read_text()

    status = json.loads(laptop.must("status", "--json", *on).stdout)
    assert status["ready"]
    assert sorted(node["ip"] for node in status["nodes"]) == sorted(host.address for host in laptop.rig.hosts)
    assert laptop.must("ask", "Who are you?", "--max-tokens", "8", *on).stdout.strip()
    assert "vllm" in laptop.must("logs", *on).stdout.lower()
    check_strangers_at_the_api(laptop, stranger)
    check_load_from_both_hosts(laptop, tmp_path)
    check_top(laptop, tmp_path / "top.txt")
    check_texts_on_the_laptop(laptop)
    check_a_refused_serve(laptop, launch)

    again = laptop.up().stderr
    assert "is up already" in again
    assert json.loads(laptop.must("status", "--json", *on).stdout)["pid"] == status["pid"]
    listed = laptop.must("incidents", *on)
    assert "no incidents" in listed.stdout + listed.stderr

    ended = laptop.type(stop)
    assert (ended.status, "nothing" in ended.text) == (0, False), ended.text
    state = laptop.type("raylaunch status --cluster cluster.yaml")
    assert (state.status, state.commands) == (1, ["raylaunch serve LAUNCH.yaml --cluster cluster.yaml"])
    assert "vllm" in laptop.must("logs", *on).stdout.lower()


def test_a_detached_service_with_an_open_api(laptop: Owner, stranger: Host, tmp_path: Path) -> None:
    """`--detach` returns and prints the next commands; `logs -f` goes on until Ctrl-C; `--open-api` needs no key."""
    launch = tmp_path / "launch.yaml"
    launch.write_text(LAUNCH.replace("size: 2, pipeline", "size: 1, pipeline").replace("8080", "8090"))
    on = ("--cluster", str(laptop.cluster_file))
    printed = laptop.must("serve", str(launch), "--rehearse", "--detach", "--open-api", *on).stderr
    for verb in ("logs -f", "status", "stop"):
        assert f"raylaunch {verb} --port=8090 --cluster {laptop.cluster_file}" in printed
    assert "asks for the key" not in printed
    assert wait_until(lambda: is_ready(laptop), READY_DEADLINE_S), laptop.run("status", *on).stderr
    following, output = laptop.start("logs", "-f", *on, output=tmp_path / "logs.txt")
    wait_for_line(output, following, "vllm")
    url = f"http://{laptop.rig.head.address}:8090/v1/models"
    assert "/data/model" in stranger.run(f"curl -s {url}").stdout
    wait_for_line(output, following, "GET /v1/models")
    following.send_signal(signal.SIGINT)
    assert following.wait(30) == 0
    assert is_ready(laptop)
    laptop.must("stop", *on)


def test_ray_submit_runs_beside(laptop: Owner, tmp_path: Path) -> None:
    """Ray's own commands work on the cluster file: `ray submit` runs a driver on both hosts."""
    driver = tmp_path / "driver.py"
    driver.write_text(DRIVER)
    done = laptop.must("submit", str(laptop.cluster_file), str(driver), program="ray")
    assert "hosts 2" in done.stdout + done.stderr


def test_closed_by_default(laptop: Owner, stranger: Host) -> None:
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


def test_dashboard_through_ssh(laptop: Owner, tmp_path: Path) -> None:
    """A way to it on the laptop's loopback, for who has the token; Ctrl-C closes it."""
    port = find_free_port()
    process, output = laptop.start(
        "dashboard", str(laptop.cluster_file), "--port", str(port), output=tmp_path / "dashboard.txt"
    )
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


def test_down_up_down(laptop: Owner, tmp_path: Path) -> None:
    """Of the cluster that is up nothing is left; up with an image of its own is killed and run again; nothing is left.

    The worker lacks the image, so up brings it before it starts Ray.
    """
    assert "is left on" in laptop.down().stderr
    assert laptop.list_traces() == []
    assert "nothing of it" in laptop.down().stderr

    archive = bring_out_of_step(laptop)
    command = ("up", str(laptop.cluster_file), "--image-archive", str(archive))
    process, output = laptop.start(*command, output=tmp_path / "up.txt")
    wait_for_line(output, process, "starting Ray", READY_DEADLINE_S)
    process.kill()  # its launcher goes with it
    process.wait()
    assert f"loading {archive} on {laptop.rig.workers[0].address}\n" in output.read_text()
    laptop.must(*command)
    archive.unlink()
    assert [*laptop.count_gpus().values()] == [LOGICAL_GPUS] * 2
    assert len({find_image(host) for host in laptop.rig.hosts}) == 1
    laptop.down()
    assert laptop.list_traces() == []


def test_plain_ray_up(laptop: Owner) -> None:
    """`raylaunch init FILE`, then Ray's own command: both hosts come in; `raylaunch up` and `down` know them."""
    laptop.must("init", str(laptop.cluster_file))
    laptop.must("up", "-y", str(laptop.cluster_file), program="ray")
    until = time.monotonic() + 120
    while len(laptop.count_gpus()) < 2 and time.monotonic() < until:
        time.sleep(1)
    assert "is up already" in laptop.up().stderr
    laptop.down()
    assert laptop.list_traces() == []


def test_workers_that_fail(laptop: Owner, tmp_path: Path) -> None:
    """One whose docker stops, tried twice; one whose cable is pulled; then up adds it, and leaves the head alone."""
    head, worker = laptop.rig.hosts
    process, output = laptop.start("up", str(laptop.cluster_file), output=tmp_path / "docker.txt")
    wait_for_line(output, process, "head: starting Ray", FAILED_DEADLINE_S)
    worker.stop_docker()
    assert process.wait(FAILED_DEADLINE_S) == 1
    printed = output.read_text()
    assert f"{worker.address} failed: the docker daemon is not running; retrying once" in printed
    assert f"{worker.address} failed twice: the docker daemon is not running" in printed
    worker.start_docker()
    worker.wait_docker()
    session = head.run(f"docker exec {CONTAINER} readlink /tmp/ray/session_latest").stdout

    process, output = laptop.start("up", str(laptop.cluster_file), output=tmp_path / "cable.txt")
    wait_for_line(output, process, f"{worker.address}: worker: image, container, Ray", FAILED_DEADLINE_S)
    with worker.cut_off():
        assert process.wait(LOST_DEADLINE_S) == 1
    assert f"{worker.address} no longer answers to ssh" in output.read_text()

    laptop.up()
    assert len(laptop.count_gpus()) == 2
    assert head.run(f"docker exec {CONTAINER} readlink /tmp/ray/session_latest").stdout == session
    laptop.down()
    assert laptop.list_traces() == []


def test_readme_by_container(laptop: Owner) -> None:
    """The README's docker commands, typed in a clone on a bare host; serve there reports the missing GPUs."""
    head = laptop.rig.head
    build, run, serve = (command for command in read_commands("README.md") if command.startswith("docker "))
    head.run(f"cd {ROOT} && {build}", timeout_s=300)
    head.run(run)
    try:
        host_wait_until(lambda: head.run(f"docker exec {CONTAINER} ray status", check=False).returncode == 0, "Ray")
        typed = head.run(f"script -qec '{serve}' /dev/null", check=False)  # `script` gives it a terminal
        assert typed.returncode == 1
        assert "this launch asks for 16 real GPUs" in typed.stdout
    finally:
        head.run(f"docker rm -f {CONTAINER}")
