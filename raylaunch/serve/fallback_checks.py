"""Whether the fallback layouts of a launch could be served, asked while all its nodes are there."""

from collections.abc import Sequence

from raylaunch.base import console
from raylaunch.base.errors import ChecksFailedError
from raylaunch.cluster.ray_session import ClusterNode
from raylaunch.config.launch import LaunchConfig
from raylaunch.node.facts import NodeFacts
from raylaunch.preflight.findings import raise_on_errors
from raylaunch.preflight.gpu_rules import list_memory
from raylaunch.preflight.requirements import CheckRequest, make_request
from raylaunch.preflight.run import check_nodes, judge
from raylaunch.serve.forecast import forecast_launch


def check_fallbacks(
    fallbacks: Sequence[LaunchConfig],
    nodes: Sequence[ClusterNode],
    facts: Sequence[NodeFacts],
    request: CheckRequest,
) -> None:
    """Check each fallback on each of these nodes: files, and with real GPUs the memory.

    Args:
        facts: of the nodes, collected for `request`, the launch's own one.

    Raises:
        ChecksFailedError: one of them could not be served.
    """
    for number, launch in enumerate(fallbacks, 1):
        needed = make_request(launch, logical_gpus=True)
        is_known = (needed.load_format, needed.companions) == (request.load_format, request.companions)
        try:
            raise_on_errors(judge(facts, needed) if is_known else check_nodes(nodes, needed)[1])
            if not request.logical_gpus:
                console.say(f"fallback layout {number}:")
                forecast_launch(launch, _find_weakest(launch, facts, request))
        except ChecksFailedError as error:
            raise ChecksFailedError(f"fallback layout {number}: {error.what}", fix=error.fix) from error


def _find_weakest(
    launch: LaunchConfig, facts: Sequence[NodeFacts], request: CheckRequest
) -> list[list[tuple[str, int]]]:
    """Name and bytes of the GPUs of the nodes with the least memory; of none where too few GPUs are known."""
    cluster = launch.cluster
    fit = [found for found in list_memory(facts, request) if len(found) >= cluster.gpus_per_node]
    if len(fit) < cluster.nodes:
        return []
    return sorted(fit, key=lambda found: sum(size for _, size in found))[: cluster.nodes]
