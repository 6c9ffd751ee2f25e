"""Check all nodes of the cluster in parallel, with a Ray task pinned to each.

A check is a probe (node/facts.py, on the node) and rules (here); every finding has a node, a problem and a fix.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from raylaunch.base.errors import ClusterError
from raylaunch.cluster import ship
from raylaunch.cluster.ray_session import ClusterNode
from raylaunch.node.facts import FactsRequest, NodeFacts, collect_facts
from raylaunch.node.nvml import DriverFacts, NodeGpu, read_gpus
from raylaunch.node.script import run_script
from raylaunch.preflight.findings import Finding
from raylaunch.preflight.gpu_rules import judge_gpus
from raylaunch.preflight.machine_rules import judge_addresses, judge_machine, judge_versions
from raylaunch.preflight.model_rules import judge_companions, judge_model
from raylaunch.preflight.requirements import CheckRequest

_DEADLINE_S = 60.0
"""Ray starts a process on each node first: 1 to 3 s, more where a disk is cold."""
_RULES = (judge_versions, judge_addresses, judge_model, judge_companions, judge_machine, judge_gpus)


@dataclass(frozen=True, slots=True)
class GpuNode:
    """A node of the cluster and its GPUs, as their driver reports them."""

    ip: str
    gpus: tuple[NodeGpu, ...]


def check_nodes(
    nodes: Sequence[ClusterNode], request: CheckRequest, *, deadline_s: float = _DEADLINE_S
) -> tuple[list[NodeFacts], list[Finding]]:
    """Collect the facts of all nodes in parallel and apply the rules; this process must have joined Ray.

    Args:
        nodes: the head first.
        deadline_s: a node that has not answered after this many seconds is a finding itself.

    Returns:
        Facts of the nodes that answered, in the order given, and all findings of all nodes.
    """
    import ray

    pending = {_start_probe(node, request): node for node in nodes}
    done, _ = ray.wait(list(pending), num_returns=len(pending), timeout=deadline_s)
    facts: list[NodeFacts] = []
    findings: list[Finding] = []
    for answer, node in pending.items():
        where = f"Ray's logs on {node.hostname}; restart Ray there"
        if answer not in done:
            ray.cancel(answer, force=True)
            what = f"did not answer within {deadline_s:.0f} s, though Ray lists it as alive"
            findings.append(Finding(node.ip, what, f"check `ray status` and {where}"))
            continue
        try:
            facts.append(ray.get(answer))
        except ray.exceptions.RayError as error:
            what = f"cannot run a Ray task: {_shorten(error)}"
            findings.append(Finding(node.ip, what, f"check {where}"))
    return facts, findings + judge(facts, request)


def judge(facts: Sequence[NodeFacts], request: CheckRequest) -> list[Finding]:
    """All findings on these nodes, in the order of the nodes."""
    if not facts:
        return []
    order = {node.node_ip: place for place, node in enumerate(facts)}
    findings = [replace(finding, rule=rule.__name__) for rule in _RULES for finding in rule(facts, request)]
    return sorted(findings, key=lambda finding: order[finding.node])


def _start_probe(node: ClusterNode, request: CheckRequest) -> Any:
    facts = FactsRequest(
        node_ip=node.ip,
        model_folder=request.model_folder,
        load_format=request.load_format,
        log_folder=request.log_folder,
        ask_gpus=not request.logical_gpus,
        companions=request.companions,
    )
    return _start_on(node, collect_facts, facts)


def _start_on(node: ClusterNode, function: Callable[..., Any], *arguments: Any) -> Any:
    """Start a function on a node; it needs no CPU in Ray's accounts, so a busy cluster answers too."""
    import ray

    with ship.node_code():
        task = ray.remote(num_cpus=0, max_retries=0)(function)
        where = ship.on_node(node.node_id)
        return task.options(name=f"raylaunch checks {node.ip}", scheduling_strategy=where).remote(*arguments)


def _shorten(error: Exception) -> str:
    """The last line of Ray's message about a failed task: the cause comes last."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def list_gpus() -> list[GpuNode]:
    """The nodes with GPUs of the Ray cluster that this machine is in, the head first; a logical GPU is not listed.

    Raises:
        ClusterError: no Ray runs here.
    """
    import ray

    with _gpu_nodes() as nodes:
        asked = [_start_on(node, read_gpus) for node in nodes]
        answers: list[DriverFacts] = ray.get(asked, timeout=_DEADLINE_S)
        found = [tuple(gpu for gpu in facts.gpus if not gpu.error) for facts in answers]
        return [GpuNode(node.ip, gpus) for node, gpus in zip(nodes, found, strict=True)]


def ask_on_node(source: str, question: str, timeout_s: float) -> tuple[str, str]:
    """Run a Python program on the first node that has GPUs, as a Ray task without any; its answer and its error.

    Raises:
        ClusterError: no Ray runs here, or none of its nodes has a GPU.
    """
    import ray

    with _gpu_nodes() as nodes:
        if not nodes:
            raise ClusterError("no node of the cluster has a GPU", fix="check `ray status`")
        asked = _start_on(nodes[0], run_script, source, question, timeout_s)
        answer: tuple[str, str] = ray.get(asked, timeout=timeout_s + _DEADLINE_S)
        return answer


@contextmanager
def _gpu_nodes() -> Iterator[list[ClusterNode]]:
    """Join the Ray that this machine is in; its nodes that have GPUs."""
    import ray

    from raylaunch.cluster import ray_session

    address = ray_session.find_address()
    if address is None:
        raise ClusterError("no Ray runs on this machine", fix="`raylaunch up CLUSTER.yaml` brings the cluster up")
    ray_session.join(address, env_vars={})
    try:
        yield [node for node in ray_session.list_nodes() if node.gpus]
    except ray.exceptions.RayError as error:
        raise ClusterError(f"the nodes do not answer: {_shorten(error)}", fix="check `ray status`") from error
    finally:
        ray_session.leave()
