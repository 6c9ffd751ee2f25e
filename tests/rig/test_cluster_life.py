"""Other ways to a cluster than the walk's: `up --serve`, an open API, `ray up`; failing hosts; down again and again."""

import json
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from raylaunch.base.processes import wait_until
from tests.plan.shapes import CONFIGS
from tests.rig.host import wait_until as host_wait_until
from tests.rig.image import LOGICAL_GPUS, start_equipped_rig
from tests.rig.owner import CONTAINER, Owner, bring_out_of_step, find_image, wait_for_line
from tests.rig.service_checks import (
    READY_DEADLINE_S,
    check_ranks_in_top,
    is_ready,
)
from tests.rig.typed import list_commands
from tests.test_readme import read_commands

pytestmark = [pytest.mark.root, pytest.mark.rig, pytest.mark.whole]

LAUNCH = """\
model: {repo: rig/model, path: /data/model}
cluster: {nodes: 2, gpus_per_node: 2, wait_s: 60}
engine: {tensor_parallel_size: 2, pipeline_parallel_size: 2, dtype: float32}
server: {host: 0.0.0.0, port: 8080}
"""
FAILED_DEADLINE_S = 300.0
LOST_DEADLINE_S = 60.0
"""Of a host that is gone; it takes some 25 s, Ray's launcher alone 900."""
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def laptop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Owner]:
    """Two hosts with two GPUs each and the official image's stand-in, and the laptop that owns them."""
    with start_equipped_rig("life", shared=(ROOT, Path(sys.base_prefix))) as rig:
        laptop = Owner.of(rig, tmp_path_factory.mktemp("life"))
        yield laptop
        for left in laptop.list_ray_states():  # where a test failed
            left.unlink()


def test_up_serves_a_model(laptop: Owner, tmp_path: Path) -> None:
    """TP=2 x PP=2 by `up --serve`, as a Ray job: its printed commands; it outlives the laptop, and a second up."""
    launch = tmp_path / "launch.yaml"
    launch.write_text(LAUNCH)
    on = ("--cluster", str(laptop.cluster_file))
    serving, output = laptop.start(
        "up", str(laptop.cluster_file), "--serve", str(launch), "--rehearse", output=tmp_path / "serve.txt"
    )
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
    for host in laptop.rig.hosts:
        variables = host.run(f"docker exec {CONTAINER} env").stdout.splitlines()
        assert f"VLLM_HOST_IP={host.address}" in variables
        assert {"NCCL_SOCKET_IFNAME=eth0", "GLOO_SOCKET_IFNAME=eth0"} <= {*variables}

    status = json.loads(laptop.must("status", "--json", *on).stdout)
    assert status["ready"]
    assert sorted(node["ip"] for node in status["nodes"]) == sorted(host.address for host in laptop.rig.hosts)
    check_ranks_in_top(laptop, [0, 1, 2, 3])
    assert "is up already" in laptop.up().stderr
    assert json.loads(laptop.must("status", "--json", *on).stdout)["pid"] == status["pid"]
    ended = laptop.type(stop)
    assert (ended.status, "nothing" in ended.text) == (0, False), ended.text


def test_plan_asks_the_cluster(laptop: Owner, tmp_path: Path) -> None:
    """Its GPUs through Ray, which have no memory here; and the vLLM of its image, in a Ray task."""
    laptop.up()
    config = CONFIGS["llama-3-8b"] | {"architectures": ["LlamaForCausalLM"], "hidden_act": "silu", "rms_norm_eps": 1e-5}
    (tmp_path / "config.json").write_text(json.dumps(config | {"rope_theta": 500000.0}))
    on = ("--cluster", str(laptop.cluster_file))
    refused = laptop.run("plan", str(tmp_path), *on)
    assert (refused.returncode, "logical GPUs have no memory" in refused.stderr) == (1, True), refused.stderr
    planned = laptop.must("plan", str(tmp_path), "--gpus", "2x2x4090", "--ask-vllm", "--json", *on)
    assert json.loads(planned.stdout)["layouts"][0]["source"] == "vLLM asked"


def test_a_detached_service_with_an_open_api(laptop: Owner, tmp_path: Path) -> None:
    """`logs -f` shows a stranger's request, which needs no key with `--open-api`, and goes on until Ctrl-C."""
    stranger = laptop.rig.add_stranger()
    launch = tmp_path / "launch.yaml"
    launch.write_text(LAUNCH.replace("size: 2, pipeline", "size: 1, pipeline").replace("8080", "8090"))
    on = ("--cluster", str(laptop.cluster_file))
    printed = laptop.must("serve", str(launch), "--rehearse", "--detach", "--open-api", *on).stderr
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
