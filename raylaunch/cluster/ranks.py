"""What only Ray's private state knows: the ranks of an engine (name, node, pid, why one died), and free resources.

Ray 2.60's public twins (ray.util.state) ask the dashboard, which a private cluster does not run.
"""

import re
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Rank:
    """The Ray actor that carries one rank of an engine, living or dead."""

    node_id: str
    pid: int
    tp_rank: int
    pp_rank: int
    ip: str = ""
    """Its node's address; "" where Ray did not place it."""
    state: str = "ALIVE"
    """Ray's word for it: PENDING_CREATION, ALIVE, DEAD, ..."""
    death_cause: str = ""
    """Why it died, as Ray says it; "" while it lives."""
    ended_at_ms: float = float("inf")
    """When it died, in milliseconds since 1970."""

    def find_number(self, tensor_parallel_size: int) -> int:
        """Its global rank: stages of `tensor_parallel_size` ranks, one after the other."""
        return self.pp_rank * tensor_parallel_size + self.tp_rank


def list_living_ranks() -> tuple[Rank, ...]:
    """The living ranks of all engines in this Ray cluster."""
    return tuple(
        _read_rank(actor)
        for actor in _list_actors("ALIVE")
        if actor.class_name.partition(".")[0].startswith("RayWorker")
    )


def list_placed_ranks(group_id: str) -> tuple[Rank, ...]:
    """The ranks that were placed in one placement group, dead ones too.

    Args:
        group_id: its hexadecimal id.
    """
    group = bytes.fromhex(group_id)
    return tuple(_read_rank(actor) for actor in _list_actors(None) if actor.placement_group_id == group)


def list_free_resources() -> dict[str, dict[str, float]]:
    """Node id -> resource -> how much of it nothing holds."""
    from ray._private.state import available_resources_per_node

    found: dict[str, dict[str, float]] = available_resources_per_node()
    return found


def _list_actors(state_name: str | None) -> list[Any]:
    """ActorTableData of the whole cluster."""
    from ray._private.state import state
    from ray.core.generated import gcs_pb2

    accessor = state._connect_and_get_accessor()
    return [gcs_pb2.ActorTableData.FromString(raw) for raw in accessor.get_actor_table(None, state_name)]


def _read_rank(actor: Any) -> Rank:
    from ray.core.generated import gcs_pb2

    tp_rank, pp_rank = read_ranks(actor.name)
    return Rank(
        node_id=(actor.address.node_id or actor.node_id).hex(),
        pid=actor.pid,
        tp_rank=tp_rank,
        pp_rank=pp_rank,
        ip=actor.address.ip_address,
        state=gcs_pb2.ActorTableData.ActorState.Name(actor.state),
        death_cause=_describe_death(actor.death_cause),
        ended_at_ms=actor.end_time or float("inf"),
    )


def read_ranks(name: str) -> tuple[int, int]:
    """TP and PP rank out of "vllm_Worker_<id>_TP1_PP3" (vLLM 0.25 to 0.33, which leave out what there is one of)."""
    tp, pp = re.search(r"_TP(\d+)", name), re.search(r"_PP(\d+)", name)
    return int(tp[1]) if tp else 0, int(pp[1]) if pp else 0


def _describe_death(cause: Any) -> str:
    kind = cause.WhichOneof("context")
    context = getattr(cause, kind) if kind else None
    for name in ("error_message", "death_cause_message", "node_death_info"):
        if (said := getattr(context, name, None)) is not None and str(said).strip():
            return str(said)
    return str(cause).strip()
