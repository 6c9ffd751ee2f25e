"""Run code on one node of a Ray cluster: pickled by value, pinned by node id."""

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any

from raylaunch import node


@contextlib.contextmanager
def by_value(*modules: ModuleType) -> Iterator[None]:
    """Within this context, tasks and actors carry the code of these modules and packages with them.

    The nodes may have another version of raylaunch, or none.
    """
    from ray import cloudpickle

    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in modules:
            cloudpickle.unregister_pickle_by_value(module)


def node_code() -> AbstractContextManager[None]:
    """`by_value` for raylaunch.node, the code that is made to run on nodes."""
    return by_value(node)


def on_node(node_id: str) -> Any:
    """The scheduling strategy of a task or an actor that may run on this node only."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node_id, soft=False)


def in_bundle(group_id: str, bundle: int) -> Any:
    """The scheduling strategy of an actor that runs in one bundle of a placement group, by its hexadecimal id."""
    import ray
    from ray.util.placement_group import PlacementGroup
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    group = PlacementGroup(ray.PlacementGroupID(bytes.fromhex(group_id)))
    return PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=bundle)
