"""What a launch requires of its nodes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from raylaunch.base import paths
from raylaunch.cluster.placement import RankPlace, plan_places
from raylaunch.cluster.ray_session import ClusterNode
from raylaunch.config.companions import list_companions
from raylaunch.config.defaults import GPU_MEMORY_UTILIZATION
from raylaunch.config.launch import LaunchConfig
from raylaunch.node.companion import Companion
from raylaunch.node.loader_files import DEFAULT_FORMAT


@dataclass(frozen=True, slots=True)
class CheckRequest:
    """What every node must provide."""

    repo: str | None
    """None where the launch has a folder only."""
    model_folder: str
    gpus_per_node: int
    tensor_parallel_size: int
    pipeline_parallel_size: int
    gpu_memory_utilization: float = GPU_MEMORY_UTILIZATION
    logical_gpus: bool = False
    """GPUs exist in Ray's accounts only (rehearsal, demo): NVML is not queried."""
    load_format: str = DEFAULT_FORMAT
    """vLLM's loader: which weights count."""
    needs_weights: bool = True
    """False where weights are random (engine.load_format=dummy)."""
    needs_tokenizer: bool = True
    """False where the tokenizer is in another folder, or none is used."""
    log_folder: str = "/tmp"
    """Where Ray and raylaunch write on a node."""
    pull_command: str = "raylaunch weights pull LAUNCH.yaml"
    """The command that fetches the model to every node."""
    reserved_gpus: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Node -> the GPUs that Ray reserved there, by the names that Ray has for them (an index or a UUID); a node that is
    missing is reserved completely."""
    companions: tuple[Companion, ...] = ()
    """Folders besides the model's."""

    @property
    def world_size(self) -> int:
        """Number of vLLM workers."""
        return self.tensor_parallel_size * self.pipeline_parallel_size


def make_request(
    config: LaunchConfig, *, logical_gpus: bool, reserved_gpus: Mapping[str, tuple[str, ...]] | None = None
) -> CheckRequest:
    """What `config` requires of its nodes.

    Args:
        logical_gpus: the launch is a rehearsal or the demo.
        reserved_gpus: see CheckRequest.
    """
    engine = config.engine
    return CheckRequest(
        repo=config.model.repo,
        model_folder=str(config.model_folder),
        gpus_per_node=config.cluster.gpus_per_node,
        tensor_parallel_size=config.tensor_parallel_size,
        pipeline_parallel_size=config.pipeline_parallel_size,
        gpu_memory_utilization=float(engine.get("gpu_memory_utilization") or GPU_MEMORY_UTILIZATION),
        logical_gpus=logical_gpus,
        reserved_gpus=reserved_gpus or {},
        load_format=config.load_format,
        needs_weights=config.load_format != "dummy",
        needs_tokenizer=not engine.get("tokenizer") and not engine.get("skip_tokenizer_init"),
        log_folder=str(paths.home()),
        pull_command=config.pull_command,
        companions=tuple(list_companions(config)),
    )


def plan_ranks(config: LaunchConfig, nodes: Sequence[ClusterNode]) -> list[RankPlace]:
    """Which node carries which rank of a launch.

    Raises:
        ClusterError: its tensor-parallel groups do not fit.
    """
    return plan_places(
        nodes,
        tp=config.tensor_parallel_size,
        pp=config.pipeline_parallel_size,
        gpus_per_node=config.cluster.gpus_per_node,
        tp_across_nodes=config.cluster.tp_across_nodes,
    )
