"""Work for one node of a Ray cluster: code that the node need not have, and a place that is that very node."""

import contextlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any


@contextlib.contextmanager
def by_value(*modules: ModuleType) -> Iterator[None]:
    """Let what these modules and packages define travel whole with each task or actor that is sent meanwhile.

    The nodes may have another raylaunch, or none.
    """
    from ray import cloudpickle

    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in modules:
            cloudpickle.unregister_pickle_by_value(module)


def on_node(node_id: str) -> Any:
    """The scheduling strategy of a task or an actor that runs on this node or nowhere."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node_id, soft=False)
