"""Which of its GPUs a host's container is given, and which of these Ray takes, by the cluster file."""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass

from raylaunch.config.run_options import RunOptions, is_expanded
from raylaunch.node.visible_gpus import GpuSelection, select_gpus, split_names

_CDI = re.compile(r"(?:runtime\.)?nvidia\.com/gpu=(.+)")
_DEVICE_FILE = re.compile(r"/dev/nvidia(\d+)(?::.*)?")
_VARIABLE = re.compile(r"\bCUDA_VISIBLE_DEVICES=(\"[^\"]*\"|'[^']*'|[^\s;&|]*)")
_NUM_GPUS = re.compile(r"\bray start\b.*?--num-gpus[=\s]+(\d+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class GpuRequest:
    """What a container asks for."""

    names: tuple[str, ...] | None = ()
    """Indices or UUIDs; None for all, or for the first `count`."""
    count: int | None = None
    """The first so many, as `--gpus 4` gives them."""
    uses_cdi: bool = False
    unknown: str = ""
    """The option, where only the host's shell, or the driver, knows which GPUs it means."""
    visible: tuple[str, ...] | None = None
    """CUDA_VISIBLE_DEVICES inside, which counts the container's GPUs from 0; None where it is not set."""
    registered: int | None = None
    """--num-gpus of `ray start`."""

    @classmethod
    def read(cls, options: RunOptions, start_commands: Sequence[str]) -> "GpuRequest":
        """By the options of `docker run` and Ray's start commands of one host.

        Raises:
            ValueError: docker would reject the value of --gpus.
        """
        commands = "\n".join(start_commands)
        visible = options.find_variable("CUDA_VISIBLE_DEVICES")
        if exported := _VARIABLE.findall(commands):
            visible = exported[-1].strip("\"'")
        registered = _NUM_GPUS.search(commands)
        names, count, uses_cdi, unknown = _read_grant(options)
        if visible is not None and is_expanded(visible):
            unknown, visible = unknown or f"CUDA_VISIBLE_DEVICES={visible}", None
        if any(name.startswith("MIG-") or ":" in name for name in names or ()):
            unknown = unknown or f"the MIG device {next(iter(names or ()))}"
        return cls(
            names=names,
            count=count,
            uses_cdi=uses_cdi,
            unknown=unknown,
            visible=None if visible is None else split_names(visible),
            registered=int(registered[1]) if registered else None,
        )

    @property
    def asks(self) -> bool:
        """Whether the container asks for any GPU."""
        return self.names is None or bool(self.names) or bool(self.unknown)

    def select(self, gpus: Sequence[tuple[int, str]]) -> GpuSelection:
        """The GPUs that Ray takes of a host's, by their place in `gpus`, and the names that none of them has.

        Args:
            gpus: index and UUID of each, as the host's driver lists them.
        """
        given = GpuSelection(tuple(range(len(gpus))))
        missing: tuple[str, ...] = ()
        if self.names is not None:
            given = select_gpus(self.names, gpus)
        elif self.count is not None:
            missing = tuple(str(index) for index in range(len(gpus), self.count))
            given = GpuSelection(given.places[: self.count], missing)
        if self.visible is not None:
            inside = [(number, gpus[place][1]) for number, place in enumerate(given.places)]
            seen = select_gpus(self.visible, inside)
            given = GpuSelection(tuple(given.places[number] for number in seen.places), (*given.unknown, *seen.unknown))
        return GpuSelection(given.places[: self.registered], given.unknown)

    def count_expected(self, gpus: Sequence[tuple[int, str]]) -> int:
        """With how many GPUs Ray has to come up on a host; the least, where that is not known here."""
        if self.registered is not None:
            return self.registered
        if self.unknown:
            return min(1, len(gpus))
        return len(self.select(gpus).places)


def _read_grant(options: RunOptions) -> tuple[tuple[str, ...] | None, int | None, bool, str]:
    """Names, count, whether by CDI, and what is unknown."""
    variable = options.find_variable("NVIDIA_VISIBLE_DEVICES")
    if (value := options.find("--gpus")) is not None:
        if is_expanded(value):
            return None, None, False, f"--gpus {value}"
        if (read := _read_gpus(value)) != (None, None) or variable is None:
            return (*read, False, "")
    devices = options.find_all("--device")
    cdi = [found[1] for value in devices if (found := _CDI.fullmatch(value))]
    files = [found[1] for value in devices if (found := _DEVICE_FILE.fullmatch(value))]
    if cdi or files:
        return None if "all" in cdi else (*cdi, *files), None, bool(cdi), ""
    if variable is not None and is_expanded(variable):
        return None, None, False, f"NVIDIA_VISIBLE_DEVICES={variable}"
    if variable is not None:
        names = [_strip_cdi(name) for name in split_names(variable)]
        return None if "all" in names else tuple(names), None, False, ""
    return (None if options.find("--runtime") == "nvidia" else ()), None, False, ""


def _strip_cdi(name: str) -> str:
    return found[1] if (found := _CDI.fullmatch(name)) else name


def _read_gpus(value: str) -> tuple[tuple[str, ...] | None, int | None]:
    """Names and count in a value of --gpus, as docker reads it (opts/gpus.go, 29).

    Raises:
        ValueError: docker would reject it.
    """
    names: tuple[str, ...] | None = None
    count: int | None = 1
    is_counted = False
    fields = next(csv.reader([value]), [])
    if not fields:
        raise ValueError("--gpus has no value: write --gpus all")
    for field in fields:
        key, equals, setting = field.partition("=")
        if equals and key not in ("device", "count", "driver", "capabilities", "options"):
            raise ValueError(f"--gpus {value}: docker does not know {key}; it reads all, a number, or '\"device=0,1\"'")
        if key == "device" and equals:
            names = tuple(_strip_cdi(name.strip()) for name in setting.split(","))
        elif not equals or key == "count":
            number = setting if equals else key
            if number not in ("all", "-1") and not number.isdigit():
                raise ValueError(f"{number} is neither a number nor all")
            is_counted, count = True, None if number in ("all", "-1") else int(number)
    if names is not None and is_counted:
        raise ValueError(
            "docker takes a list of devices for a device and a count; with quotes inside quotes it is a list: "
            "--gpus '\"device=2,3\"'"
        )
    return (names, None) if names is not None else ((), None) if count == 0 else (None, count)
