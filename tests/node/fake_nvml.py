"""Stands in for pynvml where there is no GPU: same functions, same errors, same kinds of answers.

Texts, attribute names, errors and the "no such answer" None are those of nvidia-ml-py 13.
"""

from types import SimpleNamespace

import pynvml


class SaidError(pynvml.NVMLError):
    """An error with a text that pynvml has no code for: the driver's own."""

    def __str__(self):
        return self.value


class FakeNvml:
    """One driver with GPUs; `broken` maps a function's name to the error it raises, as its code or its text.

    Functions of one GPU can be broken for all ("power") or for one ("power(1)").
    """

    def __init__(self, gpus: int = 2, broken: dict[str, str | int] | None = None) -> None:
        self.gpus = gpus
        self.broken = broken or {}
        self.reasons = 0x1
        self.xids: dict[int, list[int]] = {}
        self.open = 0
        self.compute = [SimpleNamespace(pid=2_000_000_000, usedGpuMemory=5 << 30, gpuInstanceId=0)]
        self.graphics = [SimpleNamespace(pid=1, usedGpuMemory=None, gpuInstanceId=0)]

    def _answer(self, name, value):
        if name in self.broken:
            error = self.broken[name]
            raise pynvml.NVMLError(error) if isinstance(error, int) else SaidError(error)
        assert name == "nvmlInit" or self.open == 1, "Uninitialized"
        return value

    def _answer_of(self, name, handle, value):
        """As `_answer`, for a function of one GPU."""
        self._answer(f"{name}({handle})", None)
        return self._answer(name, value)

    def __getattr__(self, name):
        """Constants and the error class are pynvml's own."""
        if name.startswith(("NVML_", "nvmlEventType", "NVMLError")):
            return getattr(pynvml, name)
        raise AttributeError(name)

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
        return self._answer_of("memory", handle, SimpleNamespace(total=24 << 30, free=18 << 30, used=6 << 30))

    def nvmlDeviceGetUUID(self, handle):
        return f"GPU-{handle}"

    def nvmlDeviceGetName(self, handle):
        return b"NVIDIA L4" if handle else "NVIDIA L4"

    def nvmlDeviceGetComputeRunningProcesses(self, handle):
        return self._answer("compute", self.compute)

    def nvmlDeviceGetGraphicsRunningProcesses(self, handle):
        return self._answer("graphics", self.graphics)

    def nvmlDeviceGetUtilizationRates(self, handle):
        return self._answer_of("use", handle, SimpleNamespace(gpu=97, memory=40))

    def nvmlDeviceGetPowerUsage(self, handle):
        return self._answer_of("power", handle, 68_512)

    def nvmlDeviceGetEnforcedPowerLimit(self, handle):
        return self._answer_of("cap", handle, 72_000)

    def nvmlDeviceGetTemperature(self, handle, sensor):
        assert sensor == pynvml.NVML_TEMPERATURE_GPU
        return self._answer_of("temperature", handle, 71)

    def nvmlDeviceGetFanSpeed(self, handle):
        return self._answer_of("fan", handle, 55)

    def nvmlDeviceGetClockInfo(self, handle, kind):
        clocks = {pynvml.NVML_CLOCK_SM: 2040, pynvml.NVML_CLOCK_MEM: 6251}
        return self._answer_of("clock", handle, clocks[kind])

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle):
        return self._answer_of("reasons", handle, self.reasons)

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle):
        return self._answer_of("old reasons", handle, self.reasons)

    def nvmlEventSetCreate(self):
        return self._answer("nvmlEventSetCreate", [])

    def nvmlDeviceRegisterEvents(self, handle, types, events):
        assert types == pynvml.nvmlEventTypeXidCriticalError
        events.append(self._answer_of("events", handle, handle))

    def nvmlEventSetWait_v2(self, events, timeout_ms):
        assert timeout_ms == 0
        waiting = self.xids.get(events[0], [])
        if not waiting:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_TIMEOUT)
        return SimpleNamespace(device=events[0], eventType=8, eventData=waiting.pop(0))

    def nvmlEventSetFree(self, events):
        self._answer("nvmlEventSetFree", events.clear())
