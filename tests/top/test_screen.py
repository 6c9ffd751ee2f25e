"""What stands on the screen, taken off a terminal of the size in question (rich's own, as `raylaunch top` draws)."""

import io
import json
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import TypeAdapter
from rich.console import Console, Group

from raylaunch.cluster.monitor import ClusterSample, SilentNode
from raylaunch.node.gpu_sample import GpuFault, GpusSample, XidEvent
from raylaunch.node.host_sample import ProcessSample
from raylaunch.node.nvml import GpuProcess
from raylaunch.serve.incident import Incident
from raylaunch.serve.service_record import Service
from raylaunch.top.screen import render
from raylaunch.top.view import ServiceView, View, arrange_nodes, describe_service

from .facts import FIGURES, GIB, RATES, change_gpu, make_cluster, make_gpu, make_host, make_service

READER = TypeAdapter(View)
"""Made at import, as raylaunch/top/remote.py makes it: a sample's class that comes back from Ray by value later has
dataclass fields that pydantic cannot read any more (cloudpickle copies dataclasses.MISSING; Ray 2.60)."""


def make_incident() -> dict[str, object]:
    return {
        "restarts": 12,
        "incident": "rank 7 (TP3 PP1) on 192.168.100.101 died",
        "incident_at": time.time() - 3_000,
        "incident_outcome": "serving again",
    }


def draw(seen: ClusterSample, service: Service | None, width: int, height: int | None, **changes: object) -> list[str]:
    """The lines as a terminal of that size shows them."""
    reported: ServiceView | None = describe_service(service) if service else None
    if reported is not None:
        reported = replace(reported, **changes)
    view = View(time.time(), arrange_nodes(seen, service), reported, FIGURES, RATES)
    console = Console(file=io.StringIO(), width=width, height=height or 25, force_terminal=False)
    console.print(Group(*render(view, width, height)))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().rstrip("\n").split("\n")


def test_sixteen_gpus_fit_80_by_24() -> None:
    """Every GPU is there with all of its figures at their longest; nothing wraps, nothing is cut; an incident, too."""
    lines = draw(make_cluster(), make_service(), 80, 24, **make_incident())
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert not [line for line in lines if "…" in line and not line.startswith("last incident")]
    rows = [line for line in lines if re.match(r" +\d+ r\d+ ", line)]
    assert [row.split()[:2] for row in rows] == [[str(rank % 8), f"r{rank}"] for rank in range(16)]
    for row in rows:
        for figure in ("100%", "139.8/140.4", "699/700", "88C", "1980/10501", "power-cap", "hot(sw)"):
            assert figure in row
    text = "\n".join(lines)
    for reported in ("ready for 3 h 20 min", "12 restarts", "last incident 50 min ago", "rank 7", "192.168.100.102"):
        assert reported in text
    for reported in ("run 1498 wait 502", "KV 100%", "in 123,456 out 98,765", "TTFT 12.3 s", "prefix 43%"):
        assert reported in text
    assert "CPU  12% of 128" in text
    assert "RAM 101/503 GiB" in text
    assert "in 987.2M out 959.2M bit/s" in text


@pytest.mark.parametrize(("nodes", "gpus_per_node"), [(4, 4), (8, 2), (16, 1)])
def test_sixteen_gpus_on_more_nodes_fit_80_by_24(nodes: int, gpus_per_node: int) -> None:
    """Where a line a GPU is too many, GPUs share lines: use, memory, power, temperature and marks of each."""
    lines = draw(make_cluster(nodes, gpus_per_node), make_service(nodes, gpus_per_node), 80, 24, **make_incident())
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert not [line for line in lines if "…" in line and not line.startswith("last incident")]
    text = "\n".join(lines)
    for number in range(nodes):
        assert f"192.168.100.{101 + number}" in text
    for rank in range(16):
        assert re.search(rf"\b{rank % gpus_per_node} r{rank} ", text), rank


def test_more_than_fits_is_said() -> None:
    """128 GPUs on 24 lines: the last line says how much is missing and what shows it."""
    lines = draw(make_cluster(16, 8), make_service(16, 8), 80, 24)
    assert len(lines) == 24
    assert re.match(r"\d+ more lines: a taller terminal, or --once", lines[-1])
    assert (
        len(
            [line for line in draw(make_cluster(16, 8), make_service(16, 8), 80, None) if re.match(r" +\d+ r\d+", line)]
        )
        == 128
    )


def test_a_wide_terminal_says_it_in_full() -> None:
    """Names of reasons, processes with pids, Xids with their meaning, the host's name, all interfaces."""
    stranger = GpuProcess(4711, "python3", 5 * GIB)
    worker = make_gpu(3, 3).processes[0]
    event = XidEvent(63, "row remapping recorded", 1.0, False)
    seen = change_gpu(make_cluster(), 0, 3, processes=(worker, stranger), xids=(event,))
    text = "\n".join(draw(seen, make_service(), 200, 50))
    for reported in (
        *("sw_power_cap sw_thermal_slowdown", "others: python3 4711 5.0 GiB", "Xid 63 row remapping recorded"),
        *("(gpu-box-1)", "lo in 8.0k", "of 10G bit/s"),
    ):
        assert reported in text


def test_strangers_and_xids_at_80_columns() -> None:
    """How many, how much, and the last Xid."""
    strangers = (GpuProcess(4711, "python3", 5 * GIB), GpuProcess(4712, "", None))
    event = XidEvent(79, "GPU has fallen off the bus", 1.0, True)
    seen = change_gpu(make_cluster(), 1, 0, processes=strangers, xids=(event,), reasons=("gpu_idle",))
    [row] = [line for line in draw(seen, make_service(ranks=()), 80, 24) if "Xid" in line]
    assert "Xid 79 +2 5.0G" in row


def test_what_is_not_told_is_a_dash() -> None:
    """A card without a fan, power reading and clocks: dashes, and no 0."""
    unknown = ("use_percent", "power_w", "power_cap_w", "fan_percent", "sm_clock_mhz", "memory_clock_mhz", "reasons")
    seen = change_gpu(make_cluster(), 0, 0, **dict.fromkeys(unknown))
    [row] = [line for line in draw(seen, make_service(), 80, 24) if re.match(r" +0 r0 ", line)]
    assert re.fullmatch(r"  0 r0 +- +139\.8/140\.4 +-/- +88C +- +-/-\s*", row)


def test_a_lost_gpu_is_told_in_words() -> None:
    """Its line says what NVML says, and which rank is on it."""
    seen = change_gpu(make_cluster(), 0, 5, fault=GpuFault.LOST, error="GPU is lost", processes=())
    [row] = [line for line in draw(seen, make_service(), 80, 24) if "lost" in line]
    assert row.split() == ["5", "r5", "lost:", "GPU", "is", "lost"]


def test_a_driver_that_does_not_answer_is_told() -> None:
    """No GPUs on a node that should have them: NVML's own words."""
    seen = make_cluster()
    mute = replace(seen.nodes[1], gpus=GpusSample(error="Driver/library version mismatch"))
    text = "\n".join(draw(replace(seen, nodes=(seen.nodes[0], mute)), None, 120, 40))
    assert "no GPUs: Driver/library version mismatch" in text


def test_the_supervisors_words_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it waits for, what it warns of, the last incident as its folder tells it; one that is gone, by its id."""
    monkeypatch.setenv("RAYLAUNCH_HOME", str(tmp_path))
    Incident("i1", 8080, "m", "died", "rank 3 died", began_at=time.time() - 300, outcome="serving again").save()
    service = make_service(
        state="restarting", note="waiting for GPUs, 8 of 16", warnings=("memory of 10.0.0.2: 93 %",),
        last_incident="i1", degraded="1 of 2 nodes",
    )  # fmt: skip
    lines = draw(make_cluster(), service, 80, 24)
    assert len(lines) <= 24
    for reported in (
        "restarting for",
        "waiting for GPUs, 8 of 16",
        "memory of 10.0.0.2: 93 %",
        "degraded: 1 of 2 nodes",
    ):
        assert reported in "\n".join(lines)
    assert "last incident 5 min ago (serving again): rank 3 died" in lines
    assert "last incident: i0" in draw(make_cluster(), replace(service, last_incident="i0"), 80, 24)


def test_silent_and_missing_nodes_are_told() -> None:
    """One fell silent; one that carries ranks is in no list."""
    seen = make_cluster()
    seen = replace(seen, nodes=seen.nodes[:1])
    text = "\n".join(draw(seen, make_service(), 80, 24))
    assert "192.168.100.102  not in Ray's list of nodes" in text
    seen = replace(seen, silent=(SilentNode("192.168.100.102", "gone from Ray for 12 s"),))
    text = "\n".join(draw(seen, make_service(), 80, 24))
    assert "192.168.100.102  gone from Ray for 12 s" in text
    assert "not in Ray's list" not in text


def test_a_rehearsal_shows_its_workers_and_says_so() -> None:
    """Logical GPUs: the worker's share of a core and its memory, where NVML has nothing to tell."""
    seen = make_cluster()
    nodes = tuple(
        replace(
            node,
            gpus=GpusSample(error="NVML Shared Library Not Found"),
            host=make_host(
                processes=tuple(
                    ProcessSample(worker.pid, 12.0, GIB // 2)
                    for worker in seen.workers
                    if node.node_id == worker.node_id
                )
            ),
        )
        for node in seen.nodes
    )
    lines = draw(replace(seen, nodes=nodes), make_service(rehearsal="cpu"), 80, 24, **make_incident())
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    rows = [line for line in lines if re.match(r" +\d+ r\d+ ", line)]
    assert len(rows) == 16
    assert all("12%" in row and "0.50 GiB" in row for row in rows)
    assert len([line for line in lines if "a rehearsal: logical GPUs" in line]) == 1


def test_ranks_without_pids_are_placed_by_rays_numbers() -> None:
    """In a container NVML tells pids of the host: the nameless process is the rank's, another one is a stranger."""
    seen = make_cluster()
    host_pid, stranger = GpuProcess(991, "", 130 * GIB), GpuProcess(4711, "python3", 5 * GIB)
    for index in range(8):
        others = (host_pid, stranger) if index == 2 else (host_pid,)
        seen = change_gpu(seen, 0, index, processes=others)
    node = arrange_nodes(seen, make_service())[0]
    assert [gpu.ranks for gpu in node.gpus] == [(rank,) for rank in range(8)]
    assert [gpu.others for gpu in node.gpus] == [(), (), (stranger,), *[()] * 5]


def test_ranks_follow_their_processes() -> None:
    """CUDA_VISIBLE_DEVICES=1,0 before Ray started: Ray's GPU 0 is the driver's GPU 1."""
    seen = make_cluster(1, 2)
    first, second = (gpu.processes for gpu in seen.nodes[0].gpus.gpus)
    seen = change_gpu(change_gpu(seen, 0, 0, processes=second), 0, 1, processes=first)
    [node] = arrange_nodes(seen, make_service(1, 2))
    assert [gpu.ranks for gpu in node.gpus] == [(1,), (0,)]


def test_two_replicas_on_one_node_keep_their_workers() -> None:
    """Both have a rank 0 at the same place of its engine: the pids that the service reports tell them apart."""
    seen = make_cluster(1, 2)
    processes = tuple(ProcessSample(worker.pid, 12.0, GIB) for worker in seen.workers)
    logical = replace(seen.nodes[0], gpus=GpusSample(error="no NVML"), host=make_host(processes=processes))
    workers = tuple(replace(worker, tp_rank=0, pp_rank=0) for worker in seen.workers)
    service = make_service(1, 2, rehearsal="cpu")
    ranks = tuple(
        replace(rank, rank=0, tp_rank=0, pp_rank=0, replica=number, pid=5000 + number)
        for number, rank in enumerate(service.ranks)
    )
    [node] = arrange_nodes(replace(seen, nodes=(logical,), workers=workers), replace(service, ranks=ranks))
    assert [(gpu.ranks, gpu.worker) for gpu in node.gpus] == [((0,), process) for process in processes]


def test_json_has_every_figure_by_name() -> None:
    """Units are in the names; reasons that slow a GPU down differ from all reasons."""
    seen = change_gpu(make_cluster(), 0, 0, reasons=("gpu_idle", "sw_power_cap"))
    service = make_service()
    reported = View(1.0, arrange_nodes(seen, service), describe_service(service), FIGURES, RATES).to_json()
    gpu = reported["nodes"][0]["gpus"][0]
    assert gpu["ranks"] == (0,)
    assert (gpu["sample"]["power_w"], gpu["sample"]["throttles"]) == (698.7, ["sw_power_cap"])
    assert reported["engine"]["running"] == FIGURES.running
    assert reported["service"]["state"] == "ready"


def test_json_can_be_read_back() -> None:
    """What one machine tells, another one shows: faults, Xids and all."""
    seen = change_gpu(make_cluster(), 0, 5, fault=GpuFault.LOST, error="GPU is lost", processes=())
    seen = change_gpu(seen, 1, 0, xids=(XidEvent(79, "GPU has fallen off the bus", 1.0, True),))
    service = make_service()
    view = View(1.0, arrange_nodes(seen, service), describe_service(service), FIGURES, RATES)
    assert READER.validate_json(json.dumps(view.to_json())) == view
