"""The path of docs/cluster.md from two bare hosts to none, each line typed on a terminal of 80 columns.

Every command that a line prints is typed, too. The transcript is in the test's folder, `transcript.txt`.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from raylaunch.base.processes import wait_until
from tests.hub_server import Hub, serve
from tests.rig.image import LOGICAL_GPUS, start_equipped_rig
from tests.rig.owner import Owner
from tests.rig.service_checks import (
    READY_DEADLINE_S,
    check_a_refused_serve,
    check_dashboard,
    check_load_results,
    check_ranks_in_top,
    check_strangers_at_the_api,
    check_the_cluster_is_closed,
    check_token_is_private,
    check_top,
    is_ready,
)
from tests.rig.typed import Typed

pytestmark = [pytest.mark.root, pytest.mark.rig]

LAUNCH = """\
model: {repo: rig/model, path: /data/model}
cluster: {nodes: 2, gpus_per_node: 1, wait_s: 60}
engine: {tensor_parallel_size: 1, pipeline_parallel_size: 2, dtype: float32}
server: {host: 0.0.0.0, port: 8080}
"""
DRIVER = """\
import ray
ray.init(address="auto")
print("hosts", len({ray.get(task) for task in [
    ray.remote(lambda: ray.util.get_node_ip_address()).options(scheduling_strategy="SPREAD").remote()
    for _ in range(4)]}))
"""
ROOT = Path(__file__).resolve().parents[2]
ON = "--cluster cluster.yaml"


@pytest.fixture
def laptop(tmp_path: Path) -> Iterator[Owner]:
    """Two hosts with two GPUs each and the official image's stand-in; a laptop with a launch and no cluster file."""
    with start_equipped_rig("walk", shared=(ROOT, Path(sys.base_prefix))) as rig:
        laptop = Owner.of(rig, tmp_path, "cluster")  # as `init` names it
        laptop.cluster_file.unlink()
        (tmp_path / "launch.yaml").write_text(LAUNCH)
        yield laptop
        for left in laptop.list_ray_states():  # where the test failed
            left.unlink()


@pytest.mark.timeout(900)
def test_the_path_as_it_is_typed(laptop: Owner) -> None:
    """Bare hosts, a cluster, the model on it, a service, its use, its end, bare hosts."""
    stranger = laptop.rig.add_stranger()
    bring_up(laptop)
    bring_the_model(laptop)
    stop = serve_detached(laptop)
    look_at_it(laptop)
    check_strangers_at_the_api(laptop, stranger)
    check_the_cluster_is_closed(laptop, stranger)
    load_it(laptop)
    check_a_refused_serve(laptop, laptop.cluster_file.with_name("launch.yaml"))
    take_down(laptop, stop)
    others = ("raylaunch logs", "ray ")  # vLLM's and Ray's lines
    ours = [typed for typed in laptop.typed if not typed.line.startswith(others)]
    assert not [(typed.line, line) for typed in ours for line in typed.list_wide(laptop.home)]


def type_line(laptop: Owner, line: str, *, status: int = 0, interrupt_at: str = "") -> Typed:
    """Type a line that has to end with `status`."""
    typed = laptop.type(line, interrupt_at=interrupt_at)
    assert typed.status == status, typed
    assert "Traceback" not in typed.text, typed
    return typed


def bring_up(laptop: Owner) -> None:
    """init, doctor and up, by the commands that each names; a wrong host, and Ctrl-C in `up`."""
    init = f"raylaunch init cluster.yaml --user root --key {laptop.rig.key} --hosts"
    hosts = ",".join(host.address for host in laptop.rig.hosts)
    assert "an address without a port" in type_line(laptop, f"{init} {hosts}:22", status=1).text
    written = type_line(laptop, f"{init} {hosts}")
    assert written.commands == ["raylaunch doctor cluster.yaml"]
    checks = laptop.must("doctor", str(laptop.cluster_file), "-v").stdout
    assert "more than 5 GiB free" in checks  # vLLM's image is there
    checked = type_line(laptop, written.commands[0])
    assert checked.commands == ["raylaunch up cluster.yaml"], checked
    stopped = type_line(laptop, checked.commands[0], status=130, interrupt_at=f"{laptop.rig.head.address}: ")
    again, down = stopped.commands
    assert (again, down) == ("raylaunch up cluster.yaml", "raylaunch down cluster.yaml")
    assert type_line(laptop, f"raylaunch status {ON}", status=1).commands == [again]
    assert type_line(laptop, "raylaunch doctor cluster.yaml").commands == [again]
    up = type_line(laptop, again)
    assert f"2 hosts, {2 * LOGICAL_GPUS} GPUs" in up.text
    assert up.commands == [f"raylaunch weights pull LAUNCH.yaml {ON}", f"raylaunch serve LAUNCH.yaml {ON}"]
    assert laptop.count_gpus() == {host.address: LOGICAL_GPUS for host in laptop.rig.hosts}
    check_token_is_private(laptop)
    check_dashboard(laptop, laptop.cluster_file.with_name("dashboard.txt"))


def bring_the_model(laptop: Owner) -> None:
    """`weights pull` of a hub that the hosts reach: once from there, then from host to host; check."""
    files = {"config.json": b"{}", "model.safetensors": os.urandom(3_000_000)}
    with serve(Hub("rig/model", files), host=laptop.rig.laptop_address) as hub:
        pulled = type_line(laptop, f"HF_ENDPOINT={hub.url} raylaunch weights pull launch.yaml {ON}")
        assert hub.count_sent() < 4_000_000
    assert pulled.commands == [f"raylaunch serve {laptop.cluster_file.with_name('launch.yaml')} {ON}"]
    for host in laptop.rig.hosts:
        assert host.run("cat /data/model/model.safetensors | wc -c").stdout.strip() == "3000000"
    type_line(laptop, f"raylaunch weights check launch.yaml {ON}")


def serve_detached(laptop: Owner) -> str:
    """It prints the next commands: its log, its state, a question, its end, which is returned.

    Ctrl-C ends `logs -f` alone.
    """
    handed = type_line(laptop, f"raylaunch serve launch.yaml --rehearse --detach {ON}")
    logs, status, ask, stop = handed.commands
    assert [line.split()[1] for line in handed.commands] == ["logs", "status", "ask", "stop"]
    assert wait_until(lambda: is_ready(laptop), READY_DEADLINE_S), laptop.type(status)
    assert stop.replace(" --port=8080", "") in type_line(laptop, logs, interrupt_at="vllm").commands
    assert is_ready(laptop)
    shown = type_line(laptop, status)
    for host in laptop.rig.hosts:
        assert f"node {host.address}: alive" in shown.text
    assert type_line(laptop, f"{ask} --max-tokens 8").text.strip()
    return stop


def look_at_it(laptop: Owner) -> None:
    """What watches; each printed command is typed. No answer speaks of the head as of this machine."""
    for verb in ("status", "top --once", "incidents"):
        typed = type_line(laptop, f"raylaunch {verb} {ON}")
        assert "this machine" not in typed.text
        assert "127.0.0.1" not in typed.text
        for command in typed.commands:
            type_line(laptop, command)
    type_line(laptop, f"raylaunch incidents none {ON}", status=1)
    check_ranks_in_top(laptop, [0, 1])
    check_top(laptop, laptop.cluster_file.with_name("top.txt"))


def load_it(laptop: Owner) -> None:
    """Both ways of a load test from both hosts, and a driver of the user's own."""
    load = "--concurrency 2 --requests 4 --max-tokens 4 --warmup 0 --force"
    assert "2 at once: 4 requests" in type_line(laptop, f"raylaunch bench {load} -o load.json {ON}").text
    check_load_results(laptop, laptop.cluster_file.with_name("load.json"))
    job = laptop.type(f"ray submit cluster.yaml {ROOT / 'benchmarks' / 'job.py'} {load}")
    assert (job.status, "2 at once: 4 requests" in job.text) == (0, True), job
    laptop.cluster_file.with_name("driver.py").write_text(DRIVER)
    own = laptop.type("ray submit cluster.yaml driver.py")
    assert (own.status, "hosts 2" in own.text) == (0, True), own


def take_down(laptop: Owner, stop: str) -> None:
    """`down` asks while it serves; stop; the log of what has ended; down; nothing is left."""
    asked = type_line(laptop, "raylaunch down cluster.yaml </dev/null", status=1)
    assert asked.commands == ["raylaunch down cluster.yaml --yes"]
    type_line(laptop, stop)
    ended = type_line(laptop, f"raylaunch status {ON}", status=1)
    assert ended.commands == [f"raylaunch serve LAUNCH.yaml {ON}"]
    log = laptop.type(f"raylaunch logs {ON} | tail -n 3").text
    assert ("nothing serves now" in log, "[shutdown]" in log) == (True, True), log
    type_line(laptop, f"raylaunch weights rm --yes launch.yaml {ON}")
    assert laptop.rig.workers[0].run("ls /data/model 2>/dev/null", check=False).stdout == ""
    type_line(laptop, "raylaunch down cluster.yaml")
    assert laptop.list_traces() == []
    assert "nothing of it" in type_line(laptop, "raylaunch down cluster.yaml").text
