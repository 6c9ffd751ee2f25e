"""What `raylaunch top` shows at one moment, arranged for reading: which rank is on which GPU, who else is there."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from raylaunch.base import paths
from raylaunch.cluster.monitor import ClusterSample
from raylaunch.cluster.ranks import Rank
from raylaunch.engine.metrics import EngineFigures, EngineRates
from raylaunch.node.gpu_sample import GpuSample
from raylaunch.node.host_sample import HostSample, ProcessSample
from raylaunch.node.nvml import GpuProcess
from raylaunch.node.sampler import NodeSample
from raylaunch.serve.incident import Incident
from raylaunch.serve.messages import PlacedRank
from raylaunch.serve.service_record import Service


@dataclass(frozen=True, slots=True)
class GpuView:
    """A GPU, and whose it is. A logical one (rehearsal, CPU) has no sample but its worker's figures."""

    index: int
    ranks: tuple[int, ...]
    """Of the engine that is watched."""
    sample: GpuSample | None = None
    worker: ProcessSample | None = None
    others: tuple[GpuProcess, ...] = ()
    """Processes on it that are not the engine's."""


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node, with its GPUs in order."""

    ip: str
    hostname: str
    host: HostSample | None
    """None where the node is silent."""
    gpus: tuple[GpuView, ...] = ()
    logical: str = ""
    """Why its GPUs are logical ones; "" where they are real."""
    silent: str = ""
    """Why there is no sample, and since when."""
    nvml_error: str = ""
    """Why NVML does not answer there, in its words."""


@dataclass(frozen=True, slots=True)
class ServiceView:
    """The service, as its record and its supervisor's figures have it."""

    model: str
    url: str
    state: str
    note: str
    """What is happening, where it is not ready."""
    degraded: str
    """What is served instead of the launch's own layout, and why; "" where that is served."""
    warnings: tuple[str, ...]
    """What the supervisor sees coming: heat, memory."""
    since: float
    """Wall clock of the state's beginning."""
    rehearsal: str | None
    restarts: int
    incident: str
    """The last one's cause, in one sentence; "" where there was none."""
    incident_at: float | None
    incident_outcome: str


@dataclass(frozen=True, slots=True)
class View:
    """Everything on the screen.

    `pydantic.TypeAdapter(View).validate_json` reads back what `to_json` returned.
    """

    at: float
    nodes: tuple[NodeView, ...]
    service: ServiceView | None = None
    engine: EngineFigures | None = None
    rates: EngineRates | None = None
    note: str = ""
    """Why there is less to see than there should be."""

    def to_json(self) -> dict[str, Any]:
        """For programs: the fields by name, units in the names; null is unknown."""
        fields = asdict(self)
        for node, seen in zip(fields["nodes"], self.nodes, strict=True):
            for gpu, real in zip(node["gpus"], seen.gpus, strict=True):
                if real.sample is not None:
                    gpu["sample"]["throttles"] = list(real.sample.throttles)
        return fields


def describe_service(service: Service) -> ServiceView:
    """The service, with its last incident where there is one."""
    incident = _read_incident(service.last_incident) if service.last_incident else None
    return ServiceView(
        model=service.models[0],
        url=service.shown_url,
        state=service.state,
        note=service.note,
        degraded=service.degraded,
        warnings=service.warnings,
        since=service.state_since or service.started_at,
        rehearsal=service.rehearsal,
        restarts=service.restarts,
        incident=incident.what if incident else service.last_incident or "",
        incident_at=incident.began_at if incident else None,
        incident_outcome=incident.outcome if incident else "",
    )


def _read_incident(incident_id: str) -> Incident | None:
    try:
        return Incident.from_file(paths.home() / "incidents" / incident_id / "incident.json")
    except (OSError, ValueError, TypeError, KeyError):
        return None


def arrange_nodes(seen: ClusterSample, service: Service | None) -> tuple[NodeView, ...]:
    """Each node with its GPUs, ranks and strangers: living ones first, then those that are silent."""
    placed: dict[str, list[PlacedRank]] = {}
    for rank in service.ranks if service else ():
        placed.setdefault(rank.node, []).append(rank)
    rehearsal = service.rehearsal if service else None
    nodes = [_arrange_node(node, placed.get(node.node_id, []), seen.workers, rehearsal) for node in seen.nodes]
    nodes += [NodeView(silent.ip, "", None, silent=silent.why) for silent in seen.silent]
    known = {node.ip for node in nodes}
    gone = {rank.ip for ranks in placed.values() for rank in ranks} - known
    return (*nodes, *(NodeView(ip, "", None, silent="not in Ray's list of nodes") for ip in sorted(gone)))


def _arrange_node(
    node: NodeSample, ranks: Sequence[PlacedRank], workers: Sequence[Rank], rehearsal: str | None
) -> NodeView:
    rank_of = _match_ranks(ranks, [worker for worker in workers if worker.node_id == node.node_id])
    real = _arrange_gpus(node.gpus.gpus, ranks, rank_of)
    logical = ""
    if rehearsal:
        logical = "a rehearsal: logical GPUs"
    elif node.gpus.error and ranks:
        logical = f"logical GPUs ({node.gpus.error})"
    if logical:
        pids = {_name(rank): pid for pid, rank in rank_of.items()}
        processes = {process.pid: process for process in node.host.processes}
        real += tuple(
            GpuView(rank.gpu or 0, (rank.rank,), worker=processes.get(pids.get(_name(rank), -1))) for rank in ranks
        )
    return NodeView(node.ip, node.hostname, node.host, real, logical, nvml_error=node.gpus.error)


def _name(rank: PlacedRank) -> tuple[int, int]:
    return rank.replica, rank.rank


def _match_ranks(ranks: Sequence[PlacedRank], workers: Sequence[Rank]) -> dict[int, PlacedRank]:
    """Pid -> rank, of one node: by the pid that the service reports, before it is ready by the place in the engine.

    Replicas on one node have the same places, so that a place which several ranks have tells nothing.
    """
    found = {rank.pid: rank for rank in ranks if rank.pid is not None}
    by_place: dict[tuple[int, int], list[PlacedRank]] = {}
    for rank in ranks:
        by_place.setdefault((rank.tp_rank, rank.pp_rank), []).append(rank)
    for worker in workers:
        there = by_place.get((worker.tp_rank, worker.pp_rank), [])
        if len(there) == 1 and there[0].pid is None:
            found[worker.pid] = there[0]
    return found


def _arrange_gpus(
    samples: Sequence[GpuSample], ranks: Sequence[PlacedRank], rank_of: Mapping[int, PlacedRank]
) -> tuple[GpuView, ...]:
    """Ranks by the processes that NVML lists; by Ray's numbers where this container does not know NVML's pids."""
    by_pid = {
        sample.index: [rank_of[process.pid] for process in sample.processes if process.pid in rank_of]
        for sample in samples
    }
    listed = {_name(rank) for ranks_there in by_pid.values() for rank in ranks_there}
    by_number: dict[int, list[int]] = {}
    for rank in ranks:
        if _name(rank) not in listed and rank.gpu is not None:
            by_number.setdefault(rank.gpu, []).append(rank.rank)
    views = []
    for sample in samples:
        unmatched = by_number.get(sample.index, [])
        others = [process for process in sample.processes if process.pid not in rank_of]
        # A rank whose pid is unknown is one of the processes without a name: NVML lists the host's pids.
        nameless = [process for process in others if not process.name][: len(unmatched)]
        views.append(
            GpuView(
                sample.index,
                tuple(sorted([*(rank.rank for rank in by_pid[sample.index]), *unmatched])),
                sample,
                others=tuple(process for process in others if process not in nameless),
            )
        )
    return tuple(views)
