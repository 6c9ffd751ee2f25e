"""How many API server processes serve one engine. Light: the supervisor imports it without vLLM."""

import os
from collections.abc import Mapping

from raylaunch.base.errors import LaunchFileError
from raylaunch.config.launch import LaunchConfig

KEY = "server.api_server_count"
RUST = "VLLM_USE_RUST_FRONTEND"
"""vLLM's front end in Rust (0.32): it can neither be drained nor made to fail its requests."""
AUTO = "auto"
MOST = 16
"""For one engine."""
_MANY = 4
"""Saturates EngineCore's one core at 500 streams (docs/serve.md has the figures' place); eight add nothing to it."""
_MANY_STREAMS = 128
"""Below, one process keeps up."""
_DEFAULT_STREAMS = 256
"""vLLM's smallest max_num_seqs of an API server on a GPU (0.32); 1,024 on large ones."""
_OTHER_CORES = 2
"""For EngineCore (one of each replica), and for the supervisor and its driver processes together."""
_OF_ONE = {
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "a LoRA adapter that a request loads",
    "VLLM_ENABLE_RESPONSES_API_STORE": "a response that is stored",
}
"""vLLM's environment variables (0.32) that let requests change one API server, and what the others would not know."""
_OF_ONE_ENGINE = _OF_ONE | {"VLLM_SERVER_DEV_MODE": "what a request puts to sleep, resets or loads"}
"""The same of one replica."""


def is_on(name: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether an environment variable of vLLM's is switched on."""
    return environ.get(name, "0").strip().lower() in ("1", "true")


def choose_count(launch: LaunchConfig, *, is_real: bool, cores: int, environ: Mapping[str, str] = os.environ) -> int:
    """The number for a launch: what it sets; for `auto` four where the head has the cores and streams may be many.

    Args:
        is_real: its ranks run on real GPUs.
        cores: of the head that this process may use.

    Raises:
        LaunchFileError: several processes or replicas are set, and an environment variable lets requests change one.
    """
    value = launch.server.get("api_server_count") or AUTO
    set_here = [name for name in _OF_ONE_ENGINE if is_on(name, environ)]
    if launch.replicas > 1 and set_here:
        what = f"{launch.replicas} replicas, but {set_here[0]} is set: {_OF_ONE_ENGINE[set_here[0]]} "
        what += "would be known to one of them only"
        raise LaunchFileError(
            launch.complain("cluster.replicas", what), fix=f"unset {set_here[0]}, or serve one engine"
        )
    of_one = [name for name in set_here if name in _OF_ONE]
    if value != AUTO:
        if int(value) > 1 and of_one:
            what = (
                f"{value} API servers, but {of_one[0]} is set: {_OF_ONE[of_one[0]]} would be known to one of them only"
            )
            raise LaunchFileError(launch.complain(KEY, what), fix=f"set {KEY}: 1, or unset {of_one[0]}")
        return int(value)
    streams = int(launch.engine.get("max_num_seqs") or _DEFAULT_STREAMS)
    ranks_here = min(launch.cluster.gpus_per_node, launch.world_size * launch.replicas)
    has_cores = cores - ranks_here - _OTHER_CORES - (launch.replicas - 1) >= _MANY * launch.replicas
    return _MANY if is_real and not of_one and streams >= _MANY_STREAMS and has_cores else 1
