"""One node's GPUs: from the real NVML where there is one, else from one that behaves like it."""

from pathlib import Path

import pynvml
import pytest

from raylaunch.node.gpu_sample import THROTTLES, GpuFault, GpuSample, GpuSampler
from raylaunch.node.nvidia_codes import name_reasons
from raylaunch.node.nvml import GpuProcess
from tests.node.fake_nvml import FakeNvml

UNSUPPORTED = pynvml.NVML_ERROR_NOT_SUPPORTED
TOLD = {
    "memory": ("memory_used_bytes", "memory_total_bytes"),
    "use": ("use_percent",),
    "power": ("power_w",),
    "cap": ("power_cap_w",),
    "temperature": ("temperature_c",),
    "fan": ("fan_percent",),
    "clock": ("sm_clock_mhz", "memory_clock_mhz"),
}
"""Function of the fake -> fields that come from it."""


class Clock:
    """A clock that the test moves."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_this_machine_or_why_there_is_nothing() -> None:
    """The real NVML: figures where it answers, its own words where it does not."""
    sampler = GpuSampler()
    seen = sampler.sample()
    sampler.close()
    if Path("/dev/nvidiactl").exists():
        assert not seen.error
        assert all(gpu.memory_total_bytes for gpu in seen.gpus)
    else:
        assert seen.error == str(pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND))
        assert seen.gpus == ()


def test_every_figure_in_its_unit() -> None:
    """NVML's milliwatts and bits are watts and names here."""
    nvml = FakeNvml(gpus=1)
    nvml.reasons = 0x4 | 0x40
    [gpu] = GpuSampler(lambda: nvml).sample().gpus
    assert gpu == GpuSample(
        index=0,
        uuid="GPU-0",
        name="NVIDIA L4",
        use_percent=97,
        memory_used_bytes=6 << 30,
        memory_total_bytes=24 << 30,
        power_w=68.512,
        power_cap_w=72.0,
        temperature_c=71,
        fan_percent=55,
        sm_clock_mhz=2040,
        memory_clock_mhz=6251,
        reasons=("sw_power_cap", "hw_thermal_slowdown"),
        processes=(
            GpuProcess(2_000_000_000, "", 5 << 30),
            GpuProcess(1, Path("/proc/1/comm").read_text().strip(), None),
        ),
    )
    assert gpu.throttles == ("sw_power_cap", "hw_thermal_slowdown")


@pytest.mark.parametrize("call", TOLD)
def test_what_a_card_does_not_tell_is_none(call: str) -> None:
    """A card without a fan has no fan at 0 %; everything else is still reported."""
    [gpu] = GpuSampler(lambda: FakeNvml(gpus=1, broken={call: UNSUPPORTED})).sample().gpus
    assert gpu.fault is None
    for other, fields in TOLD.items():
        for field in fields:
            assert (getattr(gpu, field) is None) == (other == call), field


def test_what_seldom_changes_is_asked_for_each_five_seconds() -> None:
    """A stranger shows after 5 s at most; load and power are of this very sample."""
    nvml, clock = FakeNvml(gpus=1), Clock()
    sampler = GpuSampler(lambda: nvml, monotonic=clock)
    assert len(sampler.sample().gpus[0].processes) == 2
    nvml.graphics, nvml.broken = [], {"power": UNSUPPORTED}
    [gpu] = sampler.sample().gpus
    assert (len(gpu.processes), gpu.power_w) == (2, None)
    clock.now += 5
    assert len(sampler.sample().gpus[0].processes) == 1


def test_throttling_is_told_by_old_drivers_too() -> None:
    """The function had another name before driver 535; where neither is there, nothing is claimed."""
    missing = pynvml.NVML_ERROR_FUNCTION_NOT_FOUND
    nvml = FakeNvml(gpus=1, broken={"reasons": missing})
    nvml.reasons = 0x20
    sampler = GpuSampler(lambda: nvml)
    assert sampler.sample().gpus[0].throttles == ("sw_thermal_slowdown",)
    nvml.broken["old reasons"] = missing
    [gpu] = sampler.sample().gpus
    assert gpu.reasons is None
    assert gpu.throttles == ()


def test_reasons_are_those_of_nvml() -> None:
    """Each bit that pynvml names has a name here; an idle GPU and one at the clocks it was given are not throttled."""
    bits = {
        value
        for name, value in vars(pynvml).items()
        if name.startswith(("nvmlClocksEventReason", "nvmlClocksThrottleReason"))
        and isinstance(value, int)
        and value.bit_count() == 1
    }
    assert not [name for bit in bits for name in name_reasons(bit) if name.startswith("unknown")]
    assert set(THROTTLES) < {name for bit in bits for name in name_reasons(bit)}
    assert not {"gpu_idle", "applications_clocks_setting"} & set(THROTTLES)
    assert name_reasons(0x8001) == ("gpu_idle", "unknown_0x8000")


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        (pynvml.NVML_ERROR_GPU_IS_LOST, GpuFault.LOST),
        (pynvml.NVML_ERROR_RESET_REQUIRED, GpuFault.LOST),
        (pynvml.NVML_ERROR_UNKNOWN, GpuFault.OUT_OF_REACH),
    ],
)
def test_a_lost_gpu_differs_from_a_container_that_lost_it(code: int, fault: GpuFault) -> None:
    """One GPU stops answering in the middle; its neighbour is still sampled, and it keeps its name."""
    nvml = FakeNvml()
    sampler = GpuSampler(lambda: nvml)
    sampler.sample()
    nvml.broken["use(1)"] = code
    healthy, broken = sampler.sample().gpus
    assert healthy.fault is None
    assert (broken.fault, broken.uuid, broken.error) == (fault, "GPU-1", str(pynvml.NVMLError(code)))
    assert broken.use_percent is None


def test_a_gpu_that_cannot_be_opened() -> None:
    """No permission for one device: refused, in NVML's words."""
    nvml = FakeNvml(broken={"nvmlDeviceGetHandleByIndex(1)": pynvml.NVML_ERROR_NO_PERMISSION})
    assert [gpu.fault for gpu in GpuSampler(lambda: nvml).sample().gpus] == [None, GpuFault.REFUSED]


def test_xids_are_kept_with_their_meaning() -> None:
    """Errors of the driver stay in the samples that follow; a program's own fault does not doubt the GPU."""
    nvml, clock = FakeNvml(), Clock()
    sampler = GpuSampler(lambda: nvml, clock=clock)
    assert sampler.sample().gpus[1].xids == ()
    nvml.xids[1] = [31, 79]
    sampler.sample()
    clock.now += 60
    healthy, sick = sampler.sample().gpus
    assert healthy.xids == ()
    assert [(event.xid, event.of_the_gpu, event.at) for event in sick.xids] == [(31, False, 100.0), (79, True, 100.0)]
    assert "fallen off the bus" in sick.xids[1].meaning


def test_xids_where_the_driver_has_no_events() -> None:
    """MIG and WSL refuse the registration: the rest is sampled."""
    nvml = FakeNvml(broken={"events": UNSUPPORTED})
    assert [gpu.use_percent for gpu in GpuSampler(lambda: nvml).sample().gpus] == [97, 97]


def test_gpus_that_leave_and_come_back() -> None:
    """NVML counts one less after a GPU fell off the bus: it is reported as lost, and as working when it is back."""
    nvml, clock = FakeNvml(), Clock()
    sampler = GpuSampler(lambda: nvml, monotonic=clock)
    sampler.sample()
    nvml.broken["use(1)"] = pynvml.NVML_ERROR_GPU_IS_LOST
    nvml.gpus, clock.now = 1, clock.now + 11
    sampler.sample()
    clock.now += 1
    assert [(gpu.uuid, gpu.fault) for gpu in sampler.sample().gpus] == [("GPU-0", None), ("GPU-1", GpuFault.LOST)]
    nvml.broken.clear()
    nvml.gpus, clock.now = 2, clock.now + 11
    sampler.sample()
    assert [gpu.fault for gpu in sampler.sample().gpus] == [None, None]
    sampler.close()
    assert nvml.open == 0


@pytest.mark.parametrize("call", ["nvmlInit", "nvmlDeviceGetCount"])
def test_without_nvml_it_says_why_and_asks_again_later(call: str) -> None:
    """A driver that is loaded later is found; until then it is not asked each second."""
    nvml, clock = FakeNvml(broken={call: pynvml.NVML_ERROR_DRIVER_NOT_LOADED}), Clock()
    sampler = GpuSampler(lambda: nvml, monotonic=clock)
    assert sampler.sample().error == "Driver Not Loaded"
    assert nvml.open == 0
    nvml.broken.clear()
    assert sampler.sample().error == "Driver Not Loaded"
    clock.now += 11
    assert len(sampler.sample().gpus) == 2


def test_without_nvidia_ml_py() -> None:
    """An image without the binding: the reason, no GPUs."""

    def missing() -> None:
        raise ImportError("No module named 'pynvml'")

    assert GpuSampler(missing).sample().error == "nvidia-ml-py is not installed"
