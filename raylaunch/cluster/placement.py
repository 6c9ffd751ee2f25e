"""Place each rank of the engine on a GPU: tensor-parallel groups within a node, pipeline stages across nodes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from raylaunch.base.errors import ClusterError, NotEnoughGpusError
from raylaunch.cluster import ship
from raylaunch.cluster.ranks import list_free_resources
from raylaunch.cluster.ray_session import ClusterNode

_RESERVE_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class RankPlace:
    """Where a rank of the engine runs; rank = pp_rank x TP + tp_rank, vLLM's own order."""

    rank: int
    tp_rank: int
    pp_rank: int
    node: ClusterNode
    gpu: int | None = None
    """Index of the GPU on its node as NVML numbers them, or Ray its logical ones; None until that is known."""


def plan_places(
    nodes: Sequence[ClusterNode],
    *,
    tp: int,
    pp: int,
    gpus_per_node: int | None = None,
    tp_across_nodes: bool = False,
) -> list[RankPlace]:
    """Assign each rank to a node: a tensor-parallel group to one node, pipeline stages across nodes.

    Stages fill a node before the next one, so a request crosses the network as seldom as possible.

    Args:
        gpus_per_node: most GPUs to use per node; None uses all.

    Raises:
        ClusterError: the groups do not fit.
    """
    places: list[RankPlace] = []
    free = [node.gpus if gpus_per_node is None else min(node.gpus, gpus_per_node) for node in nodes]
    sizes = tuple(free)
    at = 0
    for pp_rank in range(pp):
        while not tp_across_nodes and at < len(nodes) and free[at] < tp:
            at += 1
        for tp_rank in range(tp):
            while at < len(nodes) and free[at] < 1:
                at += 1
            if at == len(nodes):
                raise ClusterError(
                    f"{pp} groups of {tp} GPUs do not fit on nodes with {', '.join(map(str, sizes))} GPUs",
                    fix="lower engine.tensor_parallel_size or raise cluster.nodes",
                )
            free[at] -= 1
            places.append(RankPlace(pp_rank * tp + tp_rank, tp_rank, pp_rank, nodes[at]))
    return places


@dataclass(frozen=True, slots=True)
class Reservation:
    """GPUs reserved for an engine: a Ray placement group with one bundle per rank."""

    group_id: str
    """Hexadecimal id of the placement group."""
    places: tuple[RankPlace, ...]
    gpu_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Node's address -> names of the reserved GPUs there, as Ray has them (an index, or a UUID of its
    CUDA_VISIBLE_DEVICES); a node that is reserved completely is missing."""

    def locate(self, gpus: Mapping[str, Sequence[int]]) -> "Reservation":
        """With each rank's GPU: vLLM assigns a node's GPUs to its ranks in ascending order of their indices.

        Args:
            gpus: node's address -> indices of the reserved GPUs there; a node that is missing stays without.
        """
        left = {node: sorted(indices) for node, indices in gpus.items()}
        places = tuple(
            replace(place, gpu=left[place.node.ip].pop(0)) if left.get(place.node.ip) else place
            for place in self.places
        )
        return replace(self, places=places)

    def release(self) -> None:
        """Release the GPUs; Ray ends what still runs on them."""
        import ray
        from ray.util.placement_group import PlacementGroup

        ray.util.remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(self.group_id))))


def reserve(places: Sequence[RankPlace], *, timeout_s: float = _RESERVE_TIMEOUT_S) -> Reservation:
    """Reserve one GPU per rank on the planned node, and find which ones they are.

    The reservation belongs to this process's Ray job: when this process dies, Ray frees it and ends what runs in it.

    Args:
        timeout_s: longest wait for GPUs that are in use, in seconds.

    Raises:
        NotEnoughGpusError: GPUs are still in use after that.
    """
    import ray

    group = ray.util.placement_group(
        [{"GPU": 1.0}] * len(places),
        strategy="PACK",
        bundle_label_selector=[{"ray.io/node-id": place.node.node_id} for place in places],
    )
    if not group.wait(timeout_s):
        ray.util.remove_placement_group(group)
        free = {node: int(resources.get("GPU", 0)) for node, resources in list_free_resources().items()}
        counts = {place.node.ip: free.get(place.node.node_id, 0) for place in places}
        raise NotEnoughGpusError(
            "the GPUs exist but are taken: "
            + "; ".join(f"{ip} has {count} free" for ip, count in counts.items())
            + f" of {len(places)} needed in all",
            fix="`raylaunch status` and `ray status` show what uses them; `raylaunch stop` ends a service of raylaunch",
        )
    reserved: dict[str, list[RankPlace]] = {}
    for place in places:
        reserved.setdefault(place.node.ip, []).append(place)
    names = {  # where other jobs have, or may get, the rest of the node's GPUs: Ray knows which ones are ours
        ip: _ask_gpu_names(group.id.hex(), [place.rank for place in ranks])
        for ip, ranks in reserved.items()
        if len(ranks) < ranks[0].node.gpus
    }
    logical = {
        ip: [int(name) for name in names.get(ip, map(str, range(len(ranks)))) if name.isdigit()]
        for ip, ranks in reserved.items()
    }
    return Reservation(group.id.hex(), tuple(places), names).locate(logical)


def _ask_gpu_names(group_id: str, bundles: Sequence[int]) -> tuple[str, ...]:
    import ray

    def find_gpu() -> str:
        return str(ray.get_runtime_context().get_accelerator_ids()["GPU"][0])

    task = ray.remote(num_cpus=0, num_gpus=1)(find_gpu)
    asked = [task.options(scheduling_strategy=ship.in_bundle(group_id, bundle)).remote() for bundle in bundles]
    return tuple(ray.get(asked, timeout=_RESERVE_TIMEOUT_S))
