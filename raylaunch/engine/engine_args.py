"""A launch becomes vLLM's AsyncEngineArgs. With server.py the only module that knows vLLM (0.25 to 0.33)."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vllm.engine.arg_utils import AsyncEngineArgs

from raylaunch.config.launch import LaunchConfig

_START_METHOD = "VLLM_WORKER_MULTIPROC_METHOD"


@dataclass
class PlacedEngineArgs(AsyncEngineArgs):
    """AsyncEngineArgs whose engine takes the GPUs that were reserved for it, in rank order.

    vLLM would make a placement group of its own, which packs ranks wherever GPUs happen to be free.
    """

    reservation: str = ""
    """Hexadecimal id of the placement group (placement.reserve); "" leaves the choice to vLLM."""
    worker_env_vars: Mapping[str, str] = field(default_factory=dict)
    """Environment of the Ray workers from their first instruction on."""

    def create_engine_config(self, *args: Any, **kwargs: Any) -> Any:
        """vLLM's whole configuration, with our placement group and runtime environment in it.

        Neither needs Ray in this process, and it must not be connected: the engine is forked from it, and a forked
        Ray connection is dead. Forking spares the engine a second import of vLLM (9 s on two cores, a minute on a cold
        GPU machine) and is safe here because all computing is in Ray's workers; where it is not (CUDA initialised in
        this process), vLLM itself turns back to spawn. Its CPU platform would ask for spawn, for workers in the engine.
        """
        from ray import PlacementGroupID
        from ray.runtime_env import RuntimeEnv
        from ray.util.placement_group import PlacementGroup

        chosen = os.environ.get(_START_METHOD)
        parallel = (config := super().create_engine_config(*args, **kwargs)).parallel_config
        parallel.ray_runtime_env = RuntimeEnv(env_vars=dict(self.worker_env_vars))
        if self.reservation:
            parallel.placement_group = PlacementGroup(PlacementGroupID(bytes.fromhex(self.reservation)))
        if chosen is None:
            os.environ[_START_METHOD] = "fork"
        return config


def build_engine_args(
    config: LaunchConfig, *, reservation: str = "", worker_env_vars: Mapping[str, str] | None = None
) -> PlacedEngineArgs:
    """The engine's arguments: the launch's `engine:` block by field name, the model, and the names it answers to.

    Args:
        reservation, worker_env_vars: see PlacedEngineArgs.
    """
    return PlacedEngineArgs(
        **{
            **config.engine,
            "model": str(config.model_folder),
            "served_model_name": list(config.served_model_names),
        },
        reservation=reservation,
        worker_env_vars=worker_env_vars or {},
    )


def find_rank_order(world_size: int) -> str:
    """VLLM_RAY_BUNDLE_INDICES: rank i takes bundle i, whichever node this process runs on."""
    return ",".join(str(rank) for rank in range(world_size))
