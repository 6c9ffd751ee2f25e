"""Names of GPUs as CUDA_VISIBLE_DEVICES has them, against the GPUs of a machine."""

import pytest

from raylaunch.node.visible_gpus import GpuSelection, select_gpus, split_names

GPUS = [(0, "GPU-aaaa-1"), (1, "GPU-aaab-2"), (2, "GPU-b-3"), (3, "GPU-c-4")]


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("2,3", ("2", "3")),
        (" 1, 0 ", ("1", "0")),
        ("GPU-b-3", ("GPU-b-3",)),
        ("1,-1,2", ("1",)),
        ("", ()),
        ("-1", ()),
        ("NoDevFiles", ()),
        ("void", ()),
    ],
)
def test_values_of_the_variable(value: str, names: tuple[str, ...]) -> None:
    assert split_names(value) == names


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (("3", "1"), GpuSelection((3, 1))),
        (("GPU-b", "GPU-aaab"), GpuSelection((2, 1))),
        (("GPU-aaa",), GpuSelection((), ("GPU-aaa",))),
        (("9", "0", "0"), GpuSelection((0,), ("9",))),
        (("MIG-1", "x"), GpuSelection((), ("MIG-1", "x"))),
    ],
)
def test_gpus_are_found_by_index_and_by_uuid(names: tuple[str, ...], found: GpuSelection) -> None:
    """An ambiguous beginning of a UUID is no name."""
    assert select_gpus(names, GPUS) == found
