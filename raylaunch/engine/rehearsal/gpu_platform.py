"""vLLM platform plugin: all ranks of a launch on one NVIDIA GPU, with real CUDA and real NCCL.

It proves wiring, not speed: sixteen CUDA contexts take turns. NCCL uses sockets: its shared memory needs the ranks of a
group on different devices.
"""

import os
import socket

from vllm.platforms.cuda import CudaPlatform

# NCCL refuses two ranks on one device of one host ("Duplicate GPU detected"), so each process counts as a host.
# Set, never defaulted: vLLM copies the value of the engine to every worker that has none.
os.environ["NCCL_HOSTID"] = f"{socket.gethostname()}-{os.getpid()}"


class SharedGpuPlatform(CudaPlatform):
    """vLLM's CUDA platform where each of Ray's logical GPUs is device 0."""

    @classmethod
    def logical_device_id_to_visible_device_id(cls, device_id: int) -> int:
        """The ordinal in this process of a rank's device."""
        del device_id
        return 0

    @classmethod
    def device_control_id_to_physical_device_id(cls, device_id: str) -> int:
        """The physical device behind one of Ray's logical GPUs."""
        del device_id
        return 0
