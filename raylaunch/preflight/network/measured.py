"""What was measured of a cluster's network, and what follows from it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from raylaunch.cluster.placement import RankPlace
from raylaunch.node.network.interfaces import NodeNetwork
from raylaunch.node.network.links import LinkMeasured
from raylaunch.node.network.prober import TrialResult
from raylaunch.preflight.findings import Finding
from raylaunch.preflight.network.nccl_log import NcclFacts, read_nccl_log
from raylaunch.preflight.network.shapes import ModelShapes

LOST = "lost"
"""The step of a rank whose actor gave no answer."""


@dataclass(frozen=True, slots=True)
class GroupTrial:
    """One trial of one group of ranks."""

    name: str
    """ "gloo", "nccl" (all ranks), "tp 0" (the ranks of stage 0) or "tp 0 without peer access"."""
    ranks: tuple[int, ...]
    """In the order of the group."""
    results: tuple[TrialResult, ...]

    @property
    def has_passed(self) -> bool:
        """Whether every rank came through, with the values that were expected."""
        return all(one.last == "end" for one in self.results) and not self.list_wrong()

    @property
    def has_hung(self) -> bool:
        """Whether a rank had to be killed."""
        return any(one.last not in ("end", "error") for one in self.results)

    def list_lost(self) -> tuple[int, ...]:
        """Ranks whose actor gave no answer: its process or its node has died."""
        return tuple(rank for rank, one in zip(self.ranks, self.results, strict=True) if one.last == LOST)

    def list_wrong(self) -> tuple[int, ...]:
        """Ranks that received other values than were sent."""
        return tuple(
            rank
            for rank, one in zip(self.ranks, self.results, strict=True)
            if any(step.get("is_right") is False for step in one.steps)
        )

    def list_behind(self) -> tuple[int, ...]:
        """The ranks that got less far than others: the cause, where others only wait; () where all got equally far."""
        reached = [self._count_steps(one) for one in self.results]
        return tuple(rank for rank, count in zip(self.ranks, reached, strict=True) if count < max(reached))

    @staticmethod
    def _count_steps(result: TrialResult) -> int:
        return sum(step["step"] != "error" for step in result.steps)

    def read_logs(self) -> Mapping[int, NcclFacts]:
        """Rank -> what its NCCL wrote."""
        return {rank: read_nccl_log(one.nccl_log) for rank, one in zip(self.ranks, self.results, strict=True)}

    def find_reduce_rate(self) -> float | None:
        """Bytes a second that a rank sends in the slowest rank's all-reduce; None where none was timed."""
        steps = [step for result in self.results if (step := result.find("allreduce")) is not None]
        seconds = max((float(step["seconds"]) for step in steps), default=0.0)
        size = max((float(step["bytes"]) for step in steps), default=0.0)
        return 2 * size * (len(self.ranks) - 1) / len(self.ranks) / seconds if seconds and size else None


@dataclass(frozen=True, slots=True)
class HopMeasured:
    """From one pipeline stage to the next."""

    stage: int
    source: str
    target: str
    """Addresses of the nodes of both stages' first ranks."""
    prefill_s: float
    decode_s: float
    bytes: int
    """Of a prefill chunk, all ranks of the stage together."""
    stage_s: float | None = None
    """What the stage computes for the chunk, at the rate its GPUs were measured at."""

    @property
    def share(self) -> float | None:
        """The hop's time as a share of the stage's."""
        return None if not self.stage_s else self.prefill_s / self.stage_s


@dataclass(frozen=True, slots=True)
class NetworkMeasured:
    """Everything that was measured, for the rules."""

    places: tuple[RankPlace, ...]
    facts: tuple[NodeNetwork, ...]
    links: tuple[LinkMeasured, ...]
    trials: tuple[GroupTrial, ...] = ()
    shapes: ModelShapes | None = None

    def find_facts(self, ip: str) -> NodeNetwork | None:
        """Of one node."""
        return next((one for one in self.facts if one.node_ip == ip), None)

    def uses_own_interface(self, ip: str, variable: str) -> bool:
        """Whether a node's variable names the interface that has its address."""
        facts = self.find_facts(ip)
        own = facts.find_own() if facts else None
        return own is not None and facts is not None and facts.environment.get(variable) == own.name

    def describe_rank(self, rank: int) -> str:
        """Rank, node and GPU: "rank 3 (10.0.0.2, GPU 1)"."""
        place = next(place for place in self.places if place.rank == rank)
        gpu = "" if place.gpu is None else f", GPU {place.gpu}"
        return f"rank {rank} ({place.node.ip}{gpu})"

    def find_ip(self, rank: int) -> str:
        """Of a rank's node."""
        return next(place.node.ip for place in self.places if place.rank == rank)

    def find_trial(self, name: str) -> GroupTrial | None:
        """By its name."""
        return next((trial for trial in self.trials if trial.name == name), None)

    def find_network_rate(self, hops: Sequence[HopMeasured]) -> float:
        """Bytes a second of the slowest link between nodes: NCCL's where hops were tried, else TCP's; 0 without any."""
        crossing = [hop.bytes / hop.prefill_s for hop in hops if hop.source != hop.target and hop.prefill_s]
        plain = [rate * 1e6 for link in self.links for rate in (link.out_mb_s, link.in_mb_s) if rate]
        return min(crossing or plain, default=0.0)

    def find_peer_rate(self) -> float:
        """Bytes a second that the ranks of a stage reach in an all-reduce, where each stage is on one node; else 0."""
        rates = [
            rate
            for trial in self.trials
            if trial.name.startswith("tp ") and trial.has_passed and (rate := trial.find_reduce_rate())
            if len({self.find_ip(rank) for rank in trial.ranks}) == 1
        ]
        return min(rates, default=0.0)

    @property
    def is_one_machine(self) -> bool:
        """Whether all nodes are one machine, which reaches itself by loopback."""
        return len({one.machine for one in self.facts}) == 1


@dataclass(frozen=True, slots=True)
class NetworkReport:
    """What netcheck says."""

    links: tuple[LinkMeasured, ...]
    hops: tuple[HopMeasured, ...]
    findings: tuple[Finding, ...]
    proved: tuple[str, ...]
    """What was tried and works, a phrase each."""
    not_proved: tuple[str, ...]
    """What was not tried, and why."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables that this launch's ranks need."""
    disable_custom_all_reduce: bool = False
    seconds: float = 0.0
    is_remembered: bool = False
    """Whether the collectives were tried at an earlier start on this very hardware."""

    @property
    def has_passed(self) -> bool:
        """Whether the engine may start."""
        return not any(finding.level == "error" for finding in self.findings)

    def to_lines(self) -> list[str]:
        """For a terminal, a line each."""
        lines = [_describe_link(link) for link in self.links]
        lines += [_describe_hop(hop) for hop in self.hops]
        if self.proved:
            remembered = " (at an earlier start on this hardware)" if self.is_remembered else ""
            lines.append(f"works{remembered}: {', '.join(self.proved)}")
        lines += [f"not proved: {reason}" for reason in self.not_proved]
        lines += [f"set for this launch: {name}={value}" for name, value in sorted(self.environment.items())]
        if self.disable_custom_all_reduce:
            lines.append("set for this launch: engine.disable_custom_all_reduce=true")
        return lines


def _describe_link(link: LinkMeasured) -> str:
    name = f"{link.source} -> {link.target}"
    if link.error:
        return f"{name}: {link.error}"
    out, back = ("stalls" if rate is None else f"{rate:,.0f} MB/s" for rate in (link.out_mb_s, link.in_mb_s))
    return f"{name}: {out}, back {back}, {link.round_trip_us or 0:,.0f} us, packets up to {link.passed:,} B"


def _describe_hop(hop: HopMeasured) -> str:
    share = "" if hop.share is None else f", {hop.share:.0%} of the stage"
    rate = hop.bytes / hop.prefill_s / 1e9 if hop.prefill_s else 0.0
    return (
        f"stage {hop.stage} -> {hop.stage + 1}: {hop.bytes / 1e6:,.0f} MB of prefill in {hop.prefill_s * 1e3:,.1f} ms "
        f"({rate:,.1f} GB/s{share}), a decode step in {hop.decode_s * 1e3:,.2f} ms"
    )


def list_hops(measured: NetworkMeasured) -> tuple[HopMeasured, ...]:
    """The hops of the trial over all ranks."""
    trial = measured.find_trial("nccl")
    if trial is None or measured.shapes is None:
        return ()
    stages = group_stages(measured.places)
    computed = _estimate_stage_s(measured, len(stages))
    hops = []
    for number in range(len(stages) - 1):
        times = {kind: _find_hop_s(trial, number, kind) for kind in ("prefill", "decode")}
        if times["prefill"] is not None and times["decode"] is not None:
            source, target = (measured.find_ip(stages[number + step][0]) for step in (0, 1))
            size = measured.shapes.prefill_hop_bytes
            hops.append(HopMeasured(number, source, target, times["prefill"], times["decode"], size, computed))
    return tuple(hops)


def _find_hop_s(trial: GroupTrial, number: int, kind: str) -> float | None:
    found = [result.find("hop", hop=number, kind=kind) for result in trial.results]
    return max((float(one["seconds"]) for one in found if one is not None), default=None)


def _estimate_stage_s(measured: NetworkMeasured, stages: int) -> float | None:
    """A stage's time for a prefill chunk, from the slowest GPU's rate in a matrix product."""
    assert measured.shapes is not None
    rates = [
        float(step["flop_s"])
        for trial in measured.trials
        for result in trial.results
        if (step := result.find("matmul")) is not None
    ]
    tp = len(measured.places) // stages
    return measured.shapes.count_stage_flop(stages) / tp / min(rates) if rates else None


def group_stages(places: Sequence[RankPlace]) -> list[list[int]]:
    """The ranks of each pipeline stage."""
    stages: dict[int, list[int]] = {}
    for place in places:
        stages.setdefault(place.pp_rank, []).append(place.rank)
    return [stages[number] for number in sorted(stages)]
