"""Stands in for pynvml where there is no GPU: same functions, same errors, same kinds of answers.

Texts, attribute names and the "no such answer" None are those of nvidia-ml-py 13.
"""

from types import SimpleNamespace


class NVMLError(Exception):
    """pynvml.NVMLError: str() is the driver's own text."""


class FakeNvml:
    """One driver with GPUs; `broken` maps a function's name to the error it raises."""

    NVMLError = NVMLError

    def __init__(self, gpus: int = 2, broken: dict[str, str] | None = None) -> None:
        self.gpus = gpus
        self.broken = broken or {}
        self.open = 0
        self.compute = [SimpleNamespace(pid=2_000_000_000, usedGpuMemory=5 << 30, gpuInstanceId=0)]
        self.graphics = [SimpleNamespace(pid=1, usedGpuMemory=None, gpuInstanceId=0)]

    def _answer(self, name, value):
        if name in self.broken:
            raise NVMLError(self.broken[name])
        assert name == "nvmlInit" or self.open == 1, "Uninitialized"
        return value

    def nvmlInit(self):
        self._answer("nvmlInit", None)
        self.open += 1

    def nvmlShutdown(self):
        self.open -= 1

    def nvmlSystemGetDriverVersion(self):
        return self._answer("nvmlSystemGetDriverVersion", "550.144.03")

    def nvmlSystemGetCudaDriverVersion_v2(self):
        return self._answer("nvmlSystemGetCudaDriverVersion_v2", 12040)

    def nvmlDeviceGetCount(self):
        return self._answer("nvmlDeviceGetCount", self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index):
        return self._answer(f"nvmlDeviceGetHandleByIndex({index})", index)

    def nvmlDeviceGetMemoryInfo(self, handle):
        return self._answer("memory", SimpleNamespace(total=24 << 30, free=18 << 30, used=6 << 30))

    def nvmlDeviceGetUUID(self, handle):
        return f"GPU-{handle}"

    def nvmlDeviceGetName(self, handle):
        return b"NVIDIA L4" if handle else "NVIDIA L4"

    def nvmlDeviceGetComputeRunningProcesses(self, handle):
        return self._answer("compute", self.compute)

    def nvmlDeviceGetGraphicsRunningProcesses(self, handle):
        return self._answer("graphics", self.graphics)
