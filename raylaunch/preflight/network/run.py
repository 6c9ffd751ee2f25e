"""Measure the network from the ranks' own places: hosts in pairs, then all ranks over TCP, then NCCL.

Actors carry the code to the nodes; each starts a child that can be killed, so a hang ends at its deadline.
"""

import inspect
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from raylaunch.base.versions import find_version
from raylaunch.cluster import ship
from raylaunch.cluster.placement import RankPlace
from raylaunch.cluster.ray_session import ClusterNode
from raylaunch.node.network import collective
from raylaunch.node.network.interfaces import NodeNetwork
from raylaunch.node.network.links import LinkMeasured, LinkRequest
from raylaunch.node.network.prober import NetworkProber
from raylaunch.preflight.findings import Finding
from raylaunch.preflight.network import collective_rules, link_rules, memory, trials
from raylaunch.preflight.network.measured import NetworkMeasured, NetworkReport, list_hops
from raylaunch.preflight.network.shapes import ModelShapes

_START_S = 30.0
"""Ray starts a process for each actor: 1 to 3 s, more where a disk is cold."""
_LINK_S = 15.0
_ANSWER_S = 5.0
_QUICK_BYTES, _QUICK_S = 8 << 20, 0.3
"""At a start on hardware that is known, a link is tried, not measured."""


@dataclass(frozen=True, slots=True)
class NetworkRequest:
    """What to check."""

    places: tuple[RankPlace, ...]
    reservation: str | None
    """Placement group of the ranks, hexadecimal; None measures hosts alone."""
    shapes: ModelShapes | None
    is_logical: bool
    """GPUs exist in Ray's accounts only: no NCCL."""
    is_fresh: bool = False
    """Try everything again, whatever is remembered."""
    import_s: float = 60.0
    """Longest time for PyTorch's import on all nodes: 2 to 5 s, a minute from a cold disk."""

    @property
    def uses_gpus(self) -> bool:
        """Whether NCCL is tried too."""
        return not self.is_logical and self.reservation is not None


def check_network(request: NetworkRequest) -> NetworkReport:
    """Measure, judge, and end everything that was started; this process must have joined Ray."""
    began = time.monotonic()
    nodes = list({place.node.node_id: place.node for place in request.places}.values())
    with ship.node_code(), _starting() as start:
        hosts = {node.ip: start(node.ip, ship.on_node(node.node_id)) for node in nodes}
        answers = trials.gather({ip: hosts[ip].describe.remote() for ip in hosts}, _START_S)
        facts = tuple(replace(one, environment=_carry_variables() | one.environment) for one in answers.values())
        versions = [find_version(name) or "" for name in ("torch", "ray", "vllm")]
        fingerprint = memory.make_fingerprint(
            request.places, facts, request.shapes, versions, uses_gpus=request.uses_gpus
        )
        proof = None if request.is_fresh else memory.recall(fingerprint)
        ranks = _start_ranks(request, hosts, start) if proof is None else {}
        links = _measure_links(hosts, facts, quick=proof is not None)
        lost = _find_lost(hosts, links)
        facts = tuple(one for one in facts if one.node_ip not in lost)
        links = tuple(link for link in links if not lost & {link.source, link.target})
        measured = NetworkMeasured(request.places, facts, links, shapes=request.shapes)
        findings = [*link_rules.judge_addresses(measured), *_find_silent(nodes, facts)]
        findings += [*link_rules.judge_links(measured), *link_rules.judge_interfaces(measured)]
        if not any(finding.level == "error" for finding in findings) and proof is None:
            measured = replace(
                measured,
                trials=trials.run_trials(
                    measured,
                    ranks,
                    uses_gpus=request.uses_gpus,
                    import_s=request.import_s,
                ),
            )
    report = _report(measured, findings, proof, request)
    if proof is None and report.has_passed and measured.trials:
        memory.remember(
            fingerprint,
            memory.Proof(
                report.proved,
                report.environment,
                report.disable_custom_all_reduce,
                nodes=tuple(node.ip for node in nodes),
                network_bytes_s=measured.find_network_rate(report.hops),
                peer_bytes_s=measured.find_peer_rate(),
                not_proved=report.not_proved,
            ),
        )
    return replace(report, seconds=time.monotonic() - began)


def _carry_variables() -> dict[str, str]:
    """This process's variables that vLLM hands to every worker which has none of its own."""
    return {name: value for name, value in os.environ.items() if name.startswith("NCCL_")}


@contextmanager
def _starting() -> Iterator[Callable[..., Any]]:
    """A function that starts an actor, from its node's address and a scheduling strategy; all are ended."""
    import ray

    prober = ray.remote(num_cpus=0, max_restarts=0, max_concurrency=8)(NetworkProber)
    source = inspect.getsource(collective)
    started: list[Any] = []

    def start(ip: str, where: Any, *, num_gpus: int = 0) -> Any:
        started.append(prober.options(num_gpus=num_gpus, scheduling_strategy=where).remote(ip, source))
        return started[-1]

    try:
        yield start
    finally:
        trials.gather({number: actor.close.remote() for number, actor in enumerate(started)}, 10.0)
        for actor in started:
            ray.kill(actor)


def _start_ranks(request: NetworkRequest, hosts: Mapping[str, Any], start: Callable[..., Any]) -> Mapping[int, Any]:
    """An actor for each rank, which imports PyTorch; in a rehearsal a node's actor is its first rank."""
    ranks: dict[int, Any] = {}
    if not request.uses_gpus or request.reservation is None:
        for place in request.places:
            if all(request.places[rank].node.ip != place.node.ip for rank in ranks):
                ranks[place.rank] = hosts[place.node.ip]
    else:
        for place in request.places:
            where = ship.in_bundle(request.reservation, place.rank)
            ranks[place.rank] = start(place.node.ip, where, num_gpus=1)
    if len(request.places) > 1:
        for actor in ranks.values():
            actor.prepare.remote()
    return ranks


def _find_silent(nodes: Sequence[ClusterNode], facts: Sequence[NodeNetwork]) -> list[Finding]:
    answered = {one.node_ip for one in facts}
    return [
        Finding(
            node.ip,
            f"no probe answers: the node has died, or Ray starts no process there within {_START_S:.0f} s",
            f"`ray status`, then raylet.out in Ray's logs on {node.hostname}",
        )
        for node in nodes
        if node.ip not in answered
    ]


def _measure_links(hosts: Mapping[str, Any], facts: Sequence[NodeNetwork], *, quick: bool) -> tuple[LinkMeasured, ...]:
    """Every pair of nodes once, each node in one pair at a time."""
    ports = trials.gather({one.node_ip: hosts[one.node_ip].listen.remote() for one in facts}, _START_S)
    mtu = {one.node_ip: own.mtu if (own := one.find_own()) else 1500 for one in facts}
    found: list[LinkMeasured] = []
    for pairs in list_rounds([one.node_ip for one in facts if one.node_ip in ports]):
        pending, back = {}, {}
        for source, target in pairs:
            asked = LinkRequest(source, target, ports[target], mtu[source])
            if quick:
                asked = replace(asked, size=_QUICK_BYTES, transfer_s=_QUICK_S)
            pending[source, target] = hosts[source].measure.remote(asked)
            asked = LinkRequest(target, source, ports[source], mtu[target], is_short=True)
            back[source, target] = hosts[target].measure.remote(asked)
        answers, answers_back = trials.gather(pending, _LINK_S), trials.gather(back, _LINK_S)
        for pair in pending:
            link = answers.get(pair) or LinkMeasured(*pair, error="the measurement did not end")
            found.append(link)
            if not link.error and (reverse := answers_back.get(pair)) is not None and reverse.error:
                found.append(reverse)
    return tuple(found)


def _find_lost(hosts: Mapping[str, Any], links: Sequence[LinkMeasured]) -> set[str]:
    """Nodes at an end of a link that failed whose actor gives no answer any more: the link is not the cause."""
    failed = [link for link in links if link.error or link.out_mb_s is None or link.in_mb_s is None]
    asked = {ip for link in failed for ip in (link.source, link.target)}
    return asked - set(trials.gather({ip: hosts[ip].listen.remote() for ip in asked}, _ANSWER_S))


def list_rounds(names: Sequence[str]) -> list[list[tuple[str, str]]]:
    """All pairs in rounds in which no name stands twice (the circle method)."""
    circle: list[str | None] = [*names, *([None] if len(names) % 2 else [])]
    rounds = []
    for _ in range(len(circle) - 1):
        half = len(circle) // 2
        pairs = zip(circle[:half], reversed(circle[half:]), strict=True)
        rounds.append([(one, other) for one, other in pairs if one is not None and other is not None])
        circle = [circle[0], circle[-1], *circle[1:-1]]
    return rounds


def _report(
    measured: NetworkMeasured, findings: Sequence[Finding], proof: memory.Proof | None, request: NetworkRequest
) -> NetworkReport:
    hops = list_hops(measured)
    curable = collective_rules.needs_no_peer_access(measured)
    rules = (
        collective_rules.judge_gloo(measured),
        collective_rules.judge_nccl(measured),
        collective_rules.judge_hops(hops),
    )
    all_findings = (*findings, *(finding for rule in rules for finding in rule))
    is_reserved = request.reservation is not None
    not_proved = trials.list_not_proved(measured, is_logical=request.is_logical, is_reserved=is_reserved)
    return NetworkReport(
        links=measured.links,
        hops=hops,
        findings=all_findings,
        proved=proof.proved if proof else trials.list_proved(measured),
        not_proved=proof.not_proved if proof else not_proved,
        environment=proof.environment if proof else {"NCCL_P2P_DISABLE": "1"} if curable else {},
        disable_custom_all_reduce=proof.disable_custom_all_reduce if proof else bool(curable),
        is_remembered=proof is not None,
    )
