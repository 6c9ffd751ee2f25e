"""Turns a launch into vLLM's AsyncEngineArgs (vLLM 0.25 to 0.33)."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vllm.config import StructuredOutputsConfig
from vllm.engine.arg_utils import AsyncEngineArgs

from raylaunch.config.launch import LaunchConfig

_START_METHOD = "VLLM_WORKER_MULTIPROC_METHOD"


@dataclass
class PlacedEngineArgs(AsyncEngineArgs):
    """AsyncEngineArgs whose engine uses the GPUs that were reserved for it, in rank order.

    vLLM would create a placement group of its own, which packs ranks on any free GPUs.
    """

    reservation: str = ""
    """Hexadecimal id of the placement group (placement.reserve); "" leaves the choice to vLLM."""
    worker_env_vars: Mapping[str, str] = field(default_factory=dict)
    """Environment of the Ray workers from their first instruction on."""

    def create_engine_config(self, *args: Any, **kwargs: Any) -> Any:
        """vLLM's complete configuration, with our placement group and runtime environment.

        This process must not be connected to Ray: the engine is forked from it, and a forked Ray connection is dead.
        Forking saves a second import of vLLM (9 s on two cores, a minute on a cold GPU machine). It is safe because
        all computing is in Ray's workers; where CUDA is initialised in this process, vLLM itself chooses spawn. vLLM's
        CPU platform would choose spawn, for workers inside the engine.
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
    """The engine's arguments: the launch's `engine:` block by field name, the model and its served names.

    Args:
        reservation, worker_env_vars: see PlacedEngineArgs.
    """
    options = dict(config.engine)
    if isinstance(given := options.get("structured_outputs_config"), dict):
        options["structured_outputs_config"] = StructuredOutputsConfig(**given)  # vLLM (0.32) takes no mapping for it
    return PlacedEngineArgs(
        **{
            **options,
            "model": str(config.model_folder),
            "served_model_name": list(config.served_model_names),
        },
        reservation=reservation,
        worker_env_vars=worker_env_vars or {},
    )


def find_rank_order(world_size: int) -> str:
    """VLLM_RAY_BUNDLE_INDICES: rank i uses bundle i, on whichever node this process runs."""
    return ",".join(str(rank) for rank in range(world_size))
