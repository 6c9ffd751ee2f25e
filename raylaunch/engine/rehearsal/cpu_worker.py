"""The CPU stand-in's worker and communicator: vLLM's own, adapted to many ranks on few cores."""

from typing import Any

from vllm.distributed import get_pp_group
from vllm.distributed.device_communicators.cpu_communicator import CpuCommunicator
from vllm.v1.worker.cpu_worker import CPUWorker

from raylaunch.engine.rehearsal import quiet_wait


class Worker(CPUWorker):
    """vLLM's CPU worker, able to run a later pipeline stage under enforce_eager."""

    def init_device(self) -> None:
        """Join the process groups; their queues do not spin where ranks outnumber cores."""
        quiet_wait.install(self.parallel_config.world_size)
        super().init_device()

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        """Load the model, and create the buffers that vLLM's CPU runner does not.

        vLLM 0.32 creates them in the warm-up run, which its CPU runner skips under enforce_eager; a later pipeline
        stage then fails an assertion on its first request.
        """
        super().load_model(*args, **kwargs)
        runner = self.model_runner
        if runner.intermediate_tensors is None and not get_pp_group().is_first_rank:
            runner.intermediate_tensors = runner.model.make_empty_intermediate_tensors(
                batch_size=runner.max_num_tokens, dtype=self.model_config.dtype, device=self.device
            )


class Communicator(CpuCommunicator):
    """Gloo over sockets for every group: vLLM's shared-memory path spins, which starves 16 workers on 2 cores."""

    def _all_group_ranks_share_shm_group_name(self) -> bool:
        return False
