"""vLLM platform plugin: CPU workers that Ray places on logical GPUs (`ray start --num-gpus=8`)."""

from typing import Any

from vllm.platforms.cpu import CpuPlatform


class CpuRayPlatform(CpuPlatform):
    """vLLM's own CPU platform with a Ray device key, so that its Ray executor accepts it (it is "" in vLLM 0.32)."""

    ray_device_key = "GPU"
    ray_noset_device_env_vars = ["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"]  # noqa: RUF012 (vLLM's own form)

    @classmethod
    def check_and_update_config(cls, vllm_config: Any) -> None:
        """Let vLLM settle the configuration for CPU, then replace its worker class by ours."""
        from raylaunch.engine.rehearsal import quiet_wait

        quiet_wait.install(vllm_config.parallel_config.world_size)
        super().check_and_update_config(vllm_config)
        if vllm_config.parallel_config.worker_cls == "vllm.v1.worker.cpu_worker.CPUWorker":
            vllm_config.parallel_config.worker_cls = "raylaunch.engine.rehearsal.cpu_worker.Worker"

    @classmethod
    def get_device_communicator_cls(cls) -> str:
        """The communicator of every process group."""
        return "raylaunch.engine.rehearsal.cpu_worker.Communicator"
