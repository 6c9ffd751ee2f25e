"""Check every node of the cluster at once, with a Ray task pinned to each.

A check is a probe (facts.py, on the node) and a verdict (the rules, here); every finding says node, what and fix.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from raylaunch import node as node_room
from raylaunch.cluster import ship
from raylaunch.node import facts as node_facts
from raylaunch.node.facts import FactsRequest, NodeFacts
from raylaunch.preflight.findings import Finding, findings_table, raise_on_errors
from raylaunch.preflight.gpu_rules import judge_gpus
from raylaunch.preflight.machine_rules import judge_addresses, judge_machine, judge_versions
from raylaunch.preflight.model_rules import judge_model
from raylaunch.preflight.requirements import CheckRequest, make_request

if TYPE_CHECKING:
    from raylaunch.cluster.ray_session import ClusterNode

__all__ = [
    "CheckRequest",
    "Finding",
    "check_nodes",
    "findings_table",
    "judge",
    "make_request",
    "raise_on_errors",
]

_DEADLINE_S = 60.0
"""Ray starts a process on each node first: 1 to 3 s, more where a disk is cold."""
_RULES = (judge_versions, judge_addresses, judge_model, judge_machine, judge_gpus)


def check_nodes(
    nodes: "Sequence[ClusterNode]", request: CheckRequest, *, deadline_s: float = _DEADLINE_S
) -> tuple[list[NodeFacts], list[Finding]]:
    """Look at all nodes in parallel and judge what was seen; this process must have joined Ray.

    Args:
        nodes: the head first.
        deadline_s: a node that has not answered after so many seconds is a finding itself.

    Returns:
        Facts of the nodes that answered, in the order given, and all findings of all nodes.
    """
    facts, findings = gather_facts(nodes, request, deadline_s=deadline_s)
    return facts, findings + judge(facts, request)


def judge(facts: Sequence[NodeFacts], request: CheckRequest) -> list[Finding]:
    """All findings on these nodes, in the order of the nodes."""
    if not facts:
        return []
    order = {node.node_ip: place for place, node in enumerate(facts)}
    findings = [finding for rule in _RULES for finding in rule(facts, request)]
    return sorted(findings, key=lambda finding: order[finding.node])


def gather_facts(
    nodes: "Sequence[ClusterNode]", request: CheckRequest, *, deadline_s: float
) -> tuple[list[NodeFacts], list[Finding]]:
    """Facts of each node that answers, and a finding for each that does not."""
    import ray

    pending = {_ask(node, request): node for node in nodes}
    done, _ = ray.wait(list(pending), num_returns=len(pending), timeout=deadline_s)
    facts: list[NodeFacts] = []
    findings: list[Finding] = []
    for answer, node in pending.items():
        if answer not in done:
            ray.cancel(answer, force=True)
            findings.append(
                Finding(
                    node.ip,
                    f"did not answer within {deadline_s:.0f} s, though Ray lists it as alive",
                    f"look at `ray status` and at the raylet's log on {node.hostname}; restart Ray there",
                )
            )
            continue
        try:
            facts.append(ray.get(answer))
        except ray.exceptions.RayError as error:
            findings.append(
                Finding(
                    node.ip,
                    f"cannot run a Ray task: {_shorten(error)}",
                    f"look at Ray's logs on {node.hostname}; restart Ray there",
                )
            )
    return facts, findings


def _ask(node: "ClusterNode", request: CheckRequest) -> Any:
    """Start the look at one node; it takes no CPU from Ray's accounts, so a busy cluster answers too."""
    import ray

    with ship.by_value(node_room):
        look = ray.remote(num_cpus=0, max_retries=0)(node_facts.collect_facts)
        return look.options(
            name=f"raylaunch checks {node.ip}",
            scheduling_strategy=ship.on_node(node.node_id),
        ).remote(
            FactsRequest(
                node_ip=node.ip,
                model_folder=request.model_folder,
                log_folder=request.log_folder,
                ask_gpus=not request.logical_gpus,
            )
        )


def _shorten(error: Exception) -> str:
    """The last line of what Ray tells of a failed task: its own words come first, the cause last."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
