"""check_nodes against real Ray: two nodes on this machine, each a process tree of its own."""

import contextlib
import inspect
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from raylaunch.base import ports, versions
from raylaunch.base.ports import find_free_ports
from raylaunch.base.processes import Child, wait_until
from raylaunch.cluster import ray_session, ship
from raylaunch.cluster.placement import RankPlace
from raylaunch.engine.rehearsal.standin_model import Shape, write_standin
from raylaunch.node.facts import NodeFacts
from raylaunch.node.network import collective
from raylaunch.node.network.prober import NetworkProber
from raylaunch.preflight.network import trials
from raylaunch.preflight.network.measured import NetworkMeasured
from raylaunch.preflight.network.run import NetworkRequest, check_network
from raylaunch.preflight.requirements import CheckRequest
from raylaunch.preflight.run import check_nodes

pytestmark = pytest.mark.ray

OLD_RAYLAUNCH = "0.0.0+older"
WRONG_IP = "10.9.9.9"
FREE_PORTS = (
    *("dashboard-agent-listen-port", "dashboard-agent-grpc-port", "runtime-env-agent-port"),
    *("metrics-export-port", "object-manager-port", "node-manager-port"),
)
HEAD_PORTS = ("ray-client-server-port", "dashboard-port")


def start_node(folder: Path, where: list[str], ip: str, environment: dict[str, str]) -> Child:
    named = [*FREE_PORTS, *(HEAD_PORTS if "--head" in where else ())]
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", *where, "--block", f"--node-ip-address={ip}"),
        *("--num-gpus=1", "--num-cpus=1", f"--temp-dir={folder}", "--object-store-memory=100000000"),
        *("--min-worker-port=0", "--max-worker-port=0", "--disable-usage-stats"),
        *(f"--{name}={port}" for name, port in zip(named, find_free_ports(len(named)), strict=True)),
    ]
    if "--head" in where:
        command.append("--include-dashboard=false")
    with (folder / f"{ip}.log").open("wb") as log:
        return Child.start(command, environment=os.environ | environment, output=log)


def find_raylet(node: Child) -> int:
    """The pid of a node's raylet: a child of `ray start --block`."""
    children = Path(f"/proc/{node.popen.pid}/task/{node.popen.pid}/children").read_text().split()
    (raylet,) = [int(pid) for pid in children if Path(f"/proc/{pid}/comm").read_text().strip() == "raylet"]
    return raylet


@dataclass(frozen=True)
class TwoNodes:
    """A running cluster: its nodes as Ray lists them, and their processes."""

    nodes: tuple[ray_session.ClusterNode, ...]
    processes: tuple[Child, ...]


@pytest.fixture
def nodes(running: TwoNodes) -> tuple[ray_session.ClusterNode, ...]:
    return running.nodes


@pytest.fixture(scope="module")
def running() -> Iterator[TwoNodes]:
    """Two nodes; the second has another VLLM_HOST_IP, and an older raylaunch that has no checks."""
    import ray

    with contextlib.ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="rlc-"))  # short: Ray's sockets lie under it
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        stack.enter_context(contextlib.chdir(folder))  # Ray's workers import from the driver's folder first
        (folder / "old" / "raylaunch").mkdir(parents=True)
        (folder / "old" / "raylaunch" / "__init__.py").write_text(f"__version__ = {OLD_RAYLAUNCH!r}\n")
        (folder / "old" / "raylaunch" / "node.py").write_text("raise ImportError('not in this version')\n")
        port = find_free_ports(1)[0]
        address = f"127.0.0.1:{port}"
        second = {"VLLM_HOST_IP": WRONG_IP, "PYTHONPATH": str(folder / "old")}
        processes = []
        for ip, where, environment in (
            ("127.0.0.1", ["--head", f"--port={port}"], {"VLLM_HOST_IP": "127.0.0.1"}),
            ("127.0.0.2", [f"--address={address}"], second),
        ):
            node = start_node(folder, where, ip, environment)
            processes.append(node)
            stack.callback(node.wait_or_kill, 20)
            stack.callback(node.send, signal.SIGTERM)
            assert wait_until(lambda: ports.accepts_connections(address), 60), (folder / f"{ip}.log").read_text()
        ray_session.join(address, env_vars={})
        stack.callback(ray.shutdown)
        assert wait_until(lambda: len(ray_session.list_nodes()) == 2, 60), (folder / "127.0.0.2.log").read_text()
        yield TwoNodes(ray_session.list_nodes(), tuple(processes))


@pytest.fixture
def fit(tmp_path: Path) -> CheckRequest:
    """What this machine is fit for: a small model, TP=2."""
    model = write_standin(tmp_path / "model", Shape(4, 2, 2))
    return CheckRequest("owner/name", str(model), 1, 2, 1, logical_gpus=True, log_folder=str(tmp_path))


def test_a_wrong_vllm_host_ip_is_found_and_nothing_else(nodes, fit):
    facts, findings = check_nodes(nodes, fit)
    (found,) = [finding for finding in findings if finding.level == "error"]
    assert found.node == nodes[1].ip == "127.0.0.2"
    assert found.what == f"VLLM_HOST_IP is {WRONG_IP}, but Ray knows this node as 127.0.0.2"
    # Limits of the machine that runs this test may be low, and are worth a warning; nothing else is.
    assert {finding.what.partition(" ")[0] for finding in findings if finding.level == "warning"} <= {"a", "/dev/shm"}
    assert all(isinstance(seen, NodeFacts) for seen in facts)
    assert [seen.node_ip for seen in facts] == [node.ip for node in nodes]
    assert facts[0].packages["ray"] == versions.RAY
    assert facts[0].machine == facts[1].machine


def test_a_node_needs_no_raylaunch_of_its_own(nodes, fit):
    """The second node imports an older raylaunch, which has no checks; it is asked the same questions all the same."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    def look_at_raylaunch():
        import importlib

        import raylaunch

        try:
            importlib.import_module("raylaunch.node.facts")
        except ImportError as error:
            return raylaunch.__version__, str(error)
        return raylaunch.__version__, "has checks"

    pinned = NodeAffinitySchedulingStrategy(nodes[1].node_id, soft=False)
    asked = ray.remote(num_cpus=0)(look_at_raylaunch).options(scheduling_strategy=pinned).remote()
    assert ray.get(asked, timeout=60) == (OLD_RAYLAUNCH, "not in this version")
    facts, _ = check_nodes(nodes, fit)
    assert facts[1].environment["VLLM_HOST_IP"] == WRONG_IP


def test_a_broken_model_is_found_on_every_node(nodes, fit):
    weights = Path(fit.model_folder, "model.safetensors")
    size = weights.stat().st_size
    with weights.open("r+b") as file:
        file.truncate(size // 2)
    _, findings = check_nodes(nodes, fit)
    cut = [finding for finding in findings if "is truncated" in finding.what]
    assert [finding.node for finding in cut] == [node.ip for node in nodes]
    assert f"{size // 2:,} bytes of {size:,}" in cut[0].what


def test_a_node_that_is_gone_is_a_finding(nodes, fit):
    ghost = replace(nodes[1], node_id="0" * 56, ip="10.0.0.99")
    facts, findings = check_nodes([nodes[0], ghost], fit)
    assert [seen.node_ip for seen in facts] == [nodes[0].ip]
    (found,) = [finding for finding in findings if finding.level == "error"]
    assert found.node == "10.0.0.99"
    assert found.what.startswith("cannot run a Ray task: ")


def test_the_network_of_a_node_with_another_raylaunch_is_checked(nodes):
    places = tuple(RankPlace(rank, 0, rank, node, 0) for rank, node in enumerate(nodes))
    report = check_network(NetworkRequest(places, None, shapes=None, is_logical=True, is_fresh=True))
    assert "Gloo over 2 ranks" in report.proved, report.findings


def test_a_rank_that_imports_late_is_waited_for(nodes):
    """From a cold disk PyTorch takes longer on one node than another waits for its group."""
    import ray

    source = inspect.getsource(collective)
    texts = (source, "import time\ntime.sleep(8)\n" + source)
    with ship.node_code():
        prober = ray.remote(num_cpus=0, max_concurrency=8)(NetworkProber)
        actors = {
            rank: prober.options(scheduling_strategy=ship.on_node(node.node_id)).remote(node.ip, text)
            for rank, (node, text) in enumerate(zip(nodes, texts, strict=True))
        }
        facts = ray.get([actor.describe.remote() for actor in actors.values()], timeout=60)
        places = tuple(RankPlace(rank, 0, rank, node, 0) for rank, node in enumerate(nodes))
        measured = NetworkMeasured(places, tuple(facts), ())
        (gloo,) = trials.run_trials(measured, actors, uses_gpus=False, import_s=60)
    ray.get([actor.close.remote() for actor in actors.values()], timeout=60)
    assert gloo.has_passed, gloo.results


def test_a_node_that_does_not_answer_is_a_finding(running, fit):
    raylet = find_raylet(running.processes[1])
    os.kill(raylet, signal.SIGSTOP)
    try:
        facts, findings = check_nodes(running.nodes, fit, deadline_s=8)
    finally:
        os.kill(raylet, signal.SIGCONT)
    assert [seen.node_ip for seen in facts] == [running.nodes[0].ip]
    (found,) = [finding for finding in findings if finding.level == "error"]
    assert found.node == running.nodes[1].ip
    assert found.what == "did not answer within 8 s, though Ray lists it as alive"
