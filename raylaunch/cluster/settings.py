"""Settings that a raylet must be started with: it hands them on to every process it starts."""

from collections.abc import Mapping
from types import MappingProxyType

SPREAD: Mapping[str, str] = MappingProxyType(
    {
        "RAY_max_direct_call_object_size": "6000000",
        "RAY_task_rpc_inlined_bytes_limit": "30000000",
        "RAY_free_objects_period_milliseconds": "100",
    }
)
"""Environment of every raylet, so that weights travel from actor to actor at the link's rate (weights/chain.py).

The first two let a chunk of 4 MiB ride inside the call instead of in the object store; the third frees what did go
through the store ten times a second. Without them weights still spread, at about half the speed on eight nodes.
Measured with Ray 2.60.
"""

PRIORITY: Mapping[str, str] = MappingProxyType({"RAY_worker_niceness": "0"})
"""Else Ray starts its workers at niceness 15, behind the server and scheduler that wait for them (Ray 2.60)."""

NODE: Mapping[str, str] = MappingProxyType({**SPREAD, **PRIORITY})
"""Environment of every Ray node that raylaunch starts or writes a cluster file for."""
