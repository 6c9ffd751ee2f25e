"""Facts of a node's NVIDIA GPUs, through NVML (nvidia-ml-py, where it is installed)."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from raylaunch.node.host import read_process_name

NO_BINDING = "nvidia-ml-py is not installed"


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process that holds memory of a GPU."""

    pid: int
    name: str
    """"" where it lives outside this container."""
    used_bytes: int | None
    """None where the driver does not report it (MIG, WSL)."""


@dataclass(frozen=True, slots=True)
class NodeGpu:
    """One GPU, from NVML."""

    index: int
    uuid: str
    name: str
    total_bytes: int
    used_bytes: int
    free_bytes: int
    processes: tuple[GpuProcess, ...] = ()
    error: str = ""
    """NVML's error message; "" where it answered."""


@dataclass(frozen=True, slots=True)
class DriverFacts:
    """The NVIDIA driver of a node and its GPUs."""

    error: str = ""
    """NVML's error message; "" where it answers."""
    driver_version: str = ""
    cuda_version: tuple[int, int] | None = None
    """Newest CUDA that libcuda supports; a cuda-compat package raises it."""
    gpus: tuple[NodeGpu, ...] = ()
    lacks_binding: bool = False
    """Whether nvidia-ml-py is not installed there."""


def import_nvml() -> Any:
    """The binding of NVML; raises ImportError where nvidia-ml-py is not installed."""
    import pynvml

    return pynvml


def read_gpus(import_nvml: Callable[[], Any] = import_nvml) -> DriverFacts:
    """The driver and all GPUs; never raises NVML's errors."""
    try:
        nvml = import_nvml()
    except ImportError:
        return DriverFacts(error=NO_BINDING, lacks_binding=True)
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return DriverFacts(error=str(error))
    try:
        cuda = int(nvml.nvmlSystemGetCudaDriverVersion_v2())
        return DriverFacts(
            driver_version=read_text(nvml.nvmlSystemGetDriverVersion()),
            cuda_version=(cuda // 1000, cuda % 1000 // 10),
            gpus=tuple(_read_gpu(nvml, index) for index in range(nvml.nvmlDeviceGetCount())),
        )
    except nvml.NVMLError as error:
        return DriverFacts(error=str(error))
    finally:
        nvml.nvmlShutdown()


def _read_gpu(nvml: Any, index: int) -> NodeGpu:
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        return NodeGpu(
            index=index,
            uuid=read_text(nvml.nvmlDeviceGetUUID(handle)),
            name=read_text(nvml.nvmlDeviceGetName(handle)),
            total_bytes=int(memory.total),
            used_bytes=int(memory.used),
            free_bytes=int(memory.free),
            processes=read_processes(nvml, handle),
        )
    except nvml.NVMLError as error:
        return NodeGpu(index, "", "", 0, 0, 0, error=str(error))


def read_processes(nvml: Any, handle: Any) -> tuple[GpuProcess, ...]:
    """Processes that hold memory of a GPU, this one left out."""
    found: dict[int, GpuProcess] = {}
    for ask in (nvml.nvmlDeviceGetComputeRunningProcesses, nvml.nvmlDeviceGetGraphicsRunningProcesses):
        try:
            processes = ask(handle)
        except nvml.NVMLError:
            continue  # not supported on this card or under MIG
        for process in processes:
            pid, used = int(process.pid), process.usedGpuMemory
            found.setdefault(pid, GpuProcess(pid, read_process_name(pid), None if used is None else int(used)))
    found.pop(os.getpid(), None)
    return tuple(found.values())


def read_text(value: str | bytes) -> str:
    """NVML bindings before 11.510 return bytes."""
    return value.decode() if isinstance(value, bytes) else value
