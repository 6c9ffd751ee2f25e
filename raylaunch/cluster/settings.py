"""Environment variables of a raylet, which passes them to every process that it starts."""

from collections.abc import Mapping
from types import MappingProxyType

SPREAD: Mapping[str, str] = MappingProxyType(
    {
        "RAY_max_direct_call_object_size": "6000000",
        "RAY_task_rpc_inlined_bytes_limit": "30000000",
        "RAY_free_objects_period_milliseconds": "100",
    }
)
"""Weights travel from actor to actor at the link's rate (weights/transfer.py) with these; without them, on eight
nodes, at about half of it (measured with Ray 2.60).

The first two send a chunk of 4 MiB inside the call instead of through the object store; the third frees the store's
objects ten times a second.
"""
PRIORITY: Mapping[str, str] = MappingProxyType({"RAY_worker_niceness": "0"})
"""Otherwise Ray starts workers at niceness 15, behind the server and scheduler that wait for them (Ray 2.60)."""
NODE: Mapping[str, str] = MappingProxyType({**SPREAD, **PRIORITY})
"""Environment of every Ray node that raylaunch starts or writes a cluster file for."""
