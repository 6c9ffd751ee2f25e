"""What is read from NVML: from the real one where there is a GPU, else from one that behaves like it."""

import os
from pathlib import Path
from types import SimpleNamespace

import pynvml
import pytest

from raylaunch.node.nvml import GpuProcess, read_gpus

from .fake_nvml import FakeNvml


def test_gpus_of_this_machine_or_why_there_are_none():
    seen = read_gpus()
    if Path("/dev/nvidiactl").exists():
        assert not seen.error
        assert all(gpu.total_bytes >= gpu.free_bytes > 0 for gpu in seen.gpus)
    else:
        assert seen.error == str(pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND))
        assert seen.gpus == ()


def test_the_fake_has_names_that_pynvml_has():
    names = [name for name in dir(FakeNvml) if name.startswith("nvml")]
    assert names
    assert [name for name in names if not hasattr(pynvml, name)] == []


def test_driver_gpus_and_their_users():
    nvml = FakeNvml()
    seen = read_gpus(lambda: nvml)
    assert (seen.error, seen.driver_version, seen.cuda_version) == ("", "550.144.03", (12, 4))
    assert [(gpu.index, gpu.name, gpu.free_bytes >> 30) for gpu in seen.gpus] == [
        (0, "NVIDIA L4", 18),
        (1, "NVIDIA L4", 18),
    ]
    alien, init = seen.gpus[0].processes
    assert alien == GpuProcess(2_000_000_000, "", 5 << 30)
    assert init == GpuProcess(1, Path("/proc/1/comm").read_text().strip(), None)
    assert nvml.open == 0


def test_the_look_itself_is_no_stranger():
    nvml = FakeNvml()
    nvml.compute = [SimpleNamespace(pid=os.getpid(), usedGpuMemory=1)]
    nvml.graphics = []
    assert read_gpus(lambda: nvml).gpus[0].processes == ()


def test_a_process_that_computes_and_draws_is_told_once():
    nvml = FakeNvml()
    nvml.graphics = nvml.compute
    assert len(read_gpus(lambda: nvml).gpus[0].processes) == 1


@pytest.mark.parametrize("call", ["nvmlInit", "nvmlDeviceGetCount", "nvmlSystemGetDriverVersion"])
def test_a_driver_that_does_not_answer(call):
    nvml = FakeNvml(broken={call: "Driver/library version mismatch"})
    seen = read_gpus(lambda: nvml)
    assert seen.error == "Driver/library version mismatch"
    assert nvml.open == 0


def test_one_gpu_that_does_not_answer():
    seen = read_gpus(lambda: FakeNvml(broken={"nvmlDeviceGetHandleByIndex(1)": "GPU is lost"}))
    assert [gpu.error for gpu in seen.gpus] == ["", "GPU is lost"]


def test_processes_that_are_not_reported():
    seen = read_gpus(lambda: FakeNvml(broken={"compute": "Not Supported", "graphics": "Not Supported"}))
    assert seen.gpus[0].processes == ()
    assert seen.gpus[0].used_bytes == 6 << 30


def test_without_nvidia_ml_py():
    def missing():
        raise ImportError("No module named 'pynvml'")

    seen = read_gpus(missing)
    assert (seen.error, seen.lacks_binding) == ("nvidia-ml-py is not installed", True)
