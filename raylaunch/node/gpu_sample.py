"""One node's GPUs at this moment, through NVML: load, memory, power, temperature, clocks, faults and processes.

A value that a card or driver does not report is None, never 0.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from raylaunch.node.nvidia_codes import XIDS, XIDS_OF_PROGRAMS, name_reasons
from raylaunch.node.nvml import NO_BINDING, GpuProcess, import_nvml, read_processes, read_text

THROTTLES = {
    "sw_thermal_slowdown": "thermal",
    "hw_thermal_slowdown": "thermal",
    "sw_power_cap": "power",
    "hw_power_brake_slowdown": "power",
    "hw_slowdown": "hardware",
    "board_limit": "hardware",
    "reliability": "hardware",
}
"""Clock event reasons that slow a GPU down, each with its kind. `hw_slowdown` comes with a hw_ reason of heat or power;
alone, it is an external brake (power supply) or a fault. `sw_power_cap` is normal for a card at full load."""
_SLOW_S = 5.0
"""Interval for what seldom changes: processes (the slowest query), power cap and fan."""
_XIDS_KEPT = 16
_REOPEN_S = 10.0


class GpuFault(StrEnum):
    """Why a GPU does not answer."""

    LOST = "lost"
    """It fell off the bus or needs a reset: power-cycle the machine or reset the GPU."""
    OUT_OF_REACH = "out of reach"
    """NVML's "Unknown Error": mostly a container that lost its devices; the GPU itself may work."""
    REFUSED = "refused"
    """Any other error; `GpuSample.error` has NVML's message."""


@dataclass(frozen=True, slots=True)
class XidEvent:
    """An error that the driver reported of a GPU."""

    xid: int
    meaning: str
    """"" for an uncommon one: docs.nvidia.com/deploy/xid-errors lists all."""
    at: float
    """Wall clock of the sample that found it, seconds since 1970."""
    of_the_gpu: bool
    """Whether the GPU may be the cause, and not only the program on it."""


@dataclass(frozen=True, slots=True)
class GpuSample:
    """One GPU at one moment. None is "not reported by this card or driver, or not permitted"."""

    index: int
    """NVML's and nvidia-smi's number, independent of CUDA_VISIBLE_DEVICES."""
    uuid: str = ""
    name: str = ""
    use_percent: int | None = None
    """Share of the last sampling period (0.17 to 1 s) in which a kernel ran."""
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    power_w: float | None = None
    power_cap_w: float | None = None
    temperature_c: int | None = None
    fan_percent: int | None = None
    """None on cards without fans."""
    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    reasons: tuple[str, ...] | None = None
    """All clock event reasons, as the driver names them; see `throttles`."""
    processes: tuple[GpuProcess, ...] = ()
    """At most 5 s old, like `power_cap_w` and `fan_percent`."""
    xids: tuple[XidEvent, ...] = ()
    """The last 16 since the sampler was opened, oldest first."""
    fault: GpuFault | None = None
    error: str = ""
    """NVML's error message; "" where it answered."""

    @property
    def throttles(self) -> tuple[str, ...]:
        """Reasons that slow it down: see THROTTLES."""
        return tuple(reason for reason in self.reasons or () if reason in THROTTLES)


@dataclass(frozen=True, slots=True)
class GpusSample:
    """All GPUs of a node at one moment."""

    gpus: tuple[GpuSample, ...] = ()
    error: str = ""
    """NVML's error message; "" where it answers (or GPUs were not requested)."""


@dataclass(slots=True)
class _OpenGpu:
    """The sampler's state of a GPU while NVML is open."""

    index: int
    handle: Any
    events: Any = None
    """The set that collects its Xids; None where the driver has no events for it."""
    uuid: str = ""
    name: str = ""
    xids: list[XidEvent] = field(default_factory=list)
    fault: GpuFault | None = None
    """Of the attempt to open it."""
    error: str = ""
    slow_due: float = 0.0
    """When to query again what seldom changes (monotonic)."""
    power_cap_w: float | None = None
    fan_percent: int | None = None
    processes: tuple[GpuProcess, ...] = ()


class GpuSampler:
    """Samples all GPUs of this machine, and keeps NVML open, which is slow to open. For one thread.

    Args:
        find_nvml: returns the binding.
        clock, monotonic: wall clock of the samples; clock for retries after a failure.
    """

    def __init__(
        self,
        find_nvml: Callable[[], Any] = import_nvml,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._find_nvml, self._clock, self._monotonic = find_nvml, clock, monotonic
        self._nvml: Any = None
        self._gpus: list[_OpenGpu] = []
        self._failed = GpusSample()
        self._retry_at = 0.0

    def sample(self) -> GpusSample:
        """All GPUs now; never raises NVML's errors. After a failure NVML is opened again every 10 s."""
        if self._nvml is None and (self._monotonic() < self._retry_at or not self._open()):
            return self._failed
        gpus = tuple(self._sample_gpu(gpu) for gpu in self._gpus)
        if any(gpu.fault for gpu in gpus) and self._monotonic() >= self._retry_at:
            self._open()  # GPUs that came back have new handles; known Xids are kept
        return GpusSample(gpus)

    def close(self) -> None:
        """Shut NVML down; the sampler may be used again."""
        if self._nvml is None:
            return
        for gpu in self._gpus:
            if gpu.events is not None:
                self._try(self._nvml.nvmlEventSetFree, gpu.events)
                gpu.events = None
        self._try(self._nvml.nvmlShutdown)
        self._nvml = None

    def _open(self) -> bool:
        self.close()
        self._retry_at = self._monotonic() + _REOPEN_S
        try:
            nvml = self._find_nvml()
        except ImportError:
            self._failed = GpusSample(error=NO_BINDING)
            return False
        try:
            nvml.nvmlInit()
            self._nvml = nvml
            count = nvml.nvmlDeviceGetCount()
        except nvml.NVMLError as error:
            self.close()
            self._failed = GpusSample(error=str(error))
            return False
        known = {gpu.index: gpu for gpu in self._gpus}
        # NVML leaves out GPUs that fell off the bus: they are reported as lost.
        self._gpus = [self._open_gpu(index, count, known.get(index)) for index in range(max(count, len(known)))]
        return True

    def _open_gpu(self, index: int, count: int, known: _OpenGpu | None) -> _OpenGpu:
        nvml = self._nvml
        gpu = _OpenGpu(index, None)
        if known is not None:
            gpu.uuid, gpu.name, gpu.xids = known.uuid, known.name, known.xids
        if index >= count:
            gpu.fault, gpu.error = GpuFault.LOST, f"NVML counts {count} GPUs now"
            return gpu
        try:
            gpu.handle = nvml.nvmlDeviceGetHandleByIndex(index)
            gpu.uuid = read_text(nvml.nvmlDeviceGetUUID(gpu.handle))
            gpu.name = read_text(nvml.nvmlDeviceGetName(gpu.handle))
        except nvml.NVMLError as error:
            gpu.fault, gpu.error = name_fault(nvml, error), str(error)
            return gpu
        try:
            events = nvml.nvmlEventSetCreate()
            nvml.nvmlDeviceRegisterEvents(gpu.handle, nvml.nvmlEventTypeXidCriticalError, events)
            gpu.events = events
        except nvml.NVMLError:
            pass  # no events on this card (MIG, WSL): its errors show when it stops answering
        return gpu

    def _sample_gpu(self, gpu: _OpenGpu) -> GpuSample:
        self._collect_xids(gpu)
        fault, message = gpu.fault, gpu.error
        if fault is None:
            try:
                return self._read(gpu)
            except self._nvml.NVMLError as error:
                fault, message = name_fault(self._nvml, error), str(error)
        return GpuSample(gpu.index, gpu.uuid, gpu.name, xids=tuple(gpu.xids), fault=fault, error=message)

    def _read(self, gpu: _OpenGpu) -> GpuSample:
        nvml, handle = self._nvml, gpu.handle
        self._read_slow(gpu)
        memory = self._ask(nvml.nvmlDeviceGetMemoryInfo, handle)
        use = self._ask(nvml.nvmlDeviceGetUtilizationRates, handle)
        power_mw = self._ask(nvml.nvmlDeviceGetPowerUsage, handle)
        bits = self._ask(nvml.nvmlDeviceGetCurrentClocksEventReasons, handle)
        if bits is None:  # the call's name in drivers before 535
            bits = self._ask(nvml.nvmlDeviceGetCurrentClocksThrottleReasons, handle)
        return GpuSample(
            index=gpu.index,
            uuid=gpu.uuid,
            name=gpu.name,
            use_percent=None if use is None else int(use.gpu),
            memory_used_bytes=None if memory is None else int(memory.used),
            memory_total_bytes=None if memory is None else int(memory.total),
            power_w=None if power_mw is None else power_mw / 1000,
            power_cap_w=gpu.power_cap_w,
            temperature_c=self._ask(nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU),
            fan_percent=gpu.fan_percent,
            sm_clock_mhz=self._ask(nvml.nvmlDeviceGetClockInfo, handle, nvml.NVML_CLOCK_SM),
            memory_clock_mhz=self._ask(nvml.nvmlDeviceGetClockInfo, handle, nvml.NVML_CLOCK_MEM),
            reasons=None if bits is None else name_reasons(bits),
            processes=gpu.processes,
            xids=tuple(gpu.xids),
        )

    def _read_slow(self, gpu: _OpenGpu) -> None:
        if self._monotonic() < gpu.slow_due:
            return
        nvml, handle = self._nvml, gpu.handle
        cap_mw = self._ask(nvml.nvmlDeviceGetEnforcedPowerLimit, handle)
        gpu.power_cap_w = None if cap_mw is None else cap_mw / 1000
        gpu.fan_percent = self._ask(nvml.nvmlDeviceGetFanSpeed, handle)
        gpu.processes = read_processes(nvml, handle)
        gpu.slow_due = self._monotonic() + _SLOW_S

    def _ask(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """NVML's answer, or None where this GPU does not support the call.

        Raises:
            NVMLError: the GPU does not answer.
        """
        try:
            return call(*arguments)
        except self._nvml.NVMLError as error:
            if name_fault(self._nvml, error) is not GpuFault.REFUSED:
                raise
            return None

    def _try(self, call: Callable[..., Any], *arguments: Any) -> None:
        try:
            call(*arguments)
        except self._nvml.NVMLError:
            return  # freed when the process ends

    def _collect_xids(self, gpu: _OpenGpu) -> None:
        for _ in range(_XIDS_KEPT):
            if gpu.events is None:
                return
            try:
                event = self._nvml.nvmlEventSetWait_v2(gpu.events, 0)
            except self._nvml.NVMLError:
                return  # a timeout: no event; other errors show when the GPU is read
            xid = int(event.eventData)
            gpu.xids.append(XidEvent(xid, XIDS.get(xid, ""), self._clock(), xid not in XIDS_OF_PROGRAMS))
            del gpu.xids[:-_XIDS_KEPT]


def name_fault(nvml: Any, error: Any) -> GpuFault:
    """What an NVMLError of a GPU means for that GPU."""
    code = getattr(error, "value", None)
    if code in (nvml.NVML_ERROR_GPU_IS_LOST, nvml.NVML_ERROR_RESET_REQUIRED):
        return GpuFault.LOST
    return GpuFault.OUT_OF_REACH if code == nvml.NVML_ERROR_UNKNOWN else GpuFault.REFUSED
