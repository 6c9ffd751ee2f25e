"""Which of a machine's GPUs a list of device names stands for: indices, UUIDs, or the beginning of a UUID."""

from collections.abc import Sequence
from dataclasses import dataclass

NO_GPU = frozenset({"", "-1", "NoDevFiles", "none", "void"})
"""Values that give a process no GPU: CUDA_VISIBLE_DEVICES (as CUDA and Ray read it), NVIDIA_VISIBLE_DEVICES."""


@dataclass(frozen=True, slots=True)
class GpuSelection:
    """GPUs that are named, by their place in the list that they were looked for in."""

    places: tuple[int, ...]
    """In the order of the names."""
    unknown: tuple[str, ...] = ()
    """Names that no GPU has, MIG devices among them."""


def select_gpus(names: Sequence[str], gpus: Sequence[tuple[int, str]]) -> GpuSelection:
    """Find GPUs by name.

    Args:
        names: "2", "GPU-8932f937-..." or the beginning of a UUID, as in CUDA_VISIBLE_DEVICES.
        gpus: index and UUID of each GPU there is.
    """
    places: list[int] = []
    unknown = []
    for name in names:
        found = [
            place
            for place, (index, uuid) in enumerate(gpus)
            if (str(index) == name if name.isdigit() else name.startswith("GPU-") and uuid.startswith(name))
        ]
        if len(found) != 1:
            unknown.append(name)
        elif found[0] not in places:
            places.append(found[0])
    return GpuSelection(tuple(places), tuple(unknown))


def split_names(value: str) -> tuple[str, ...]:
    """The names in a value of CUDA_VISIBLE_DEVICES or NVIDIA_VISIBLE_DEVICES; none where it hides every GPU."""
    names = [name.strip() for name in value.split(",")]
    if value.strip() in NO_GPU:
        return ()
    return tuple(names[: names.index("-1")] if "-1" in names else names)
