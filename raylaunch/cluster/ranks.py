"""The ranks of an engine (node, pid, cause of death) and free resources, from Ray's private state.

Ray's public functions for this (ray.util.state, 2.60) need the dashboard, which a private cluster does not run.
"""

from dataclasses import dataclass
from typing import Any

from raylaunch.base import rank_names


@dataclass(frozen=True, slots=True)
class Rank:
    """The Ray actor of one rank of an engine, living or dead."""

    node_id: str
    pid: int
    tp_rank: int
    pp_rank: int
    ip: str = ""
    """Its node's address; "" where Ray did not place it."""
    state: str = "ALIVE"
    """Ray's name for it: PENDING_CREATION, ALIVE, DEAD, ..."""
    death_cause: str = ""
    """Ray's message; "" while it lives."""
    ended_at_ms: float = float("inf")
    """When it died, in milliseconds since 1970."""

    def find_number(self, tensor_parallel_size: int) -> int:
        """Its global rank."""
        return rank_names.find_number(self.tp_rank, self.pp_rank, tensor_parallel_size)


def list_living_ranks() -> tuple[Rank, ...]:
    """The living ranks of all engines in this Ray cluster."""
    return tuple(_read_rank(actor) for actor in _list_ranks("ALIVE"))


def list_placed_ranks(group_id: str) -> tuple[Rank, ...]:
    """The ranks that were placed in one placement group, dead ones too.

    The check of the network has had actors there as well, one for each rank.

    Args:
        group_id: its hexadecimal id.
    """
    group = bytes.fromhex(group_id)
    return tuple(_read_rank(actor) for actor in _list_ranks(None) if actor.placement_group_id == group)


def list_free_resources() -> dict[str, dict[str, float]]:
    """Node id -> resource -> how much of it is free."""
    from ray._private.state import available_resources_per_node

    found: dict[str, dict[str, float]] = available_resources_per_node()
    return found


def _list_ranks(state_name: str | None) -> list[Any]:
    """ActorTableData of vLLM's workers in the cluster."""
    from ray._private.state import state
    from ray.core.generated import gcs_pb2

    accessor = state._connect_and_get_accessor()
    actors = (gcs_pb2.ActorTableData.FromString(raw) for raw in accessor.get_actor_table(None, state_name))
    return [actor for actor in actors if actor.class_name in rank_names.CLASSES]


def _read_rank(actor: Any) -> Rank:
    from ray.core.generated import gcs_pb2

    tp_rank, pp_rank = rank_names.read_ranks(actor.name) or (0, 0)
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


def _describe_death(cause: Any) -> str:
    kind = cause.WhichOneof("context")
    context = getattr(cause, kind) if kind else None
    for name in ("error_message", "death_cause_message", "node_death_info"):
        if text := str(getattr(context, name, "")).strip():
            return text
    return str(cause).strip()
