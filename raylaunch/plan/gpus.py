"""GPU kinds by name, with the memory that CUDA reports, and the machines that carry them."""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from raylaunch.base import text
from raylaunch.base.errors import LaunchFileError

GIB = 1 << 30
_BYTES_PER_GBIT = 1e9 / 8


@dataclass(frozen=True, slots=True)
class GpuKind:
    """A GPU model. Memory is cudaMemGetInfo's total, which is below the label; rates are in bytes per second."""

    name: str
    memory_gib: float
    memory_rate: float
    """Of its own memory."""
    peer_rate: float
    """Of a GPU to its neighbours in the machine during an all-reduce: NVLink, or PCIe through host memory."""
    capability: int
    """Compute capability, 89 for 8.9."""

    @property
    def has_nvlink(self) -> bool:
        """Whether its neighbours are reached faster than over PCIe."""
        return self.peer_rate > 60e9


_KINDS = (
    GpuKind("T4", 14.56, 320e9, 6e9, 75),
    GpuKind("V100-32GB", 31.73, 900e9, 100e9, 70),
    GpuKind("L4", 22.03, 300e9, 10e9, 89),
    GpuKind("A10", 22.06, 600e9, 10e9, 86),
    GpuKind("A10G", 22.06, 600e9, 10e9, 86),
    GpuKind("A30", 23.50, 933e9, 10e9, 80),
    GpuKind("3090", 23.56, 936e9, 10e9, 86),
    GpuKind("4090", 23.52, 1008e9, 10e9, 89),
    GpuKind("5080", 15.92, 960e9, 20e9, 120),
    GpuKind("5090", 31.36, 1792e9, 20e9, 120),
    GpuKind("A5000", 23.55, 768e9, 10e9, 86),
    GpuKind("A6000", 47.40, 768e9, 10e9, 86),
    GpuKind("6000Ada", 47.37, 960e9, 10e9, 89),
    GpuKind("A40", 44.35, 696e9, 10e9, 86),
    GpuKind("L40", 44.39, 864e9, 10e9, 89),
    GpuKind("L40S", 44.40, 864e9, 10e9, 89),
    GpuKind("PRO6000", 94.97, 1792e9, 20e9, 120),
    GpuKind("A100-40GB", 39.39, 1555e9, 200e9, 80),
    GpuKind("A100", 79.15, 2039e9, 200e9, 80),
    GpuKind("H20", 95.00, 4000e9, 350e9, 90),
    GpuKind("H100", 79.10, 3350e9, 350e9, 90),
    GpuKind("H100NVL", 93.10, 3900e9, 300e9, 90),
    GpuKind("H200", 139.80, 4800e9, 350e9, 90),
    GpuKind("B200", 178.35, 8000e9, 700e9, 100),
)
KINDS = {kind.name.lower(): kind for kind in _KINDS}
_UNKNOWN = GpuKind("GPU", 0.0, 1000e9, 10e9, 80)
_SAME = {"a800": "a100", "h800": "h100"}
"""Cards that differ in their links alone."""
_EXAMPLE = "machines x GPUs x kind, as 2x8x4090; unequal machines joined by +"


@dataclass(frozen=True, slots=True)
class Machine:
    """GPUs of one kind in one machine."""

    kind: GpuKind
    gpus: int


@dataclass(frozen=True, slots=True)
class Fleet:
    """The machines of a plan, in the order of their ranks."""

    machines: tuple[Machine, ...]
    network_rate: float = 10 * _BYTES_PER_GBIT
    """Between machines, in bytes per second; 10 Gbit/s unless it is known."""
    link_source: str = "nominal"
    """Where the rates of links come from."""

    @property
    def gpus(self) -> int:
        """All of them."""
        return sum(machine.gpus for machine in self.machines)

    def describe(self) -> str:
        """ "2 x 8 x 4090 (23.52 GiB)", kinds that differ joined by +."""
        parts: list[tuple[Machine, int]] = []
        for machine in self.machines:
            if parts and parts[-1][0] == machine:
                parts[-1] = (machine, parts[-1][1] + 1)
            else:
                parts.append((machine, 1))
        return " + ".join(f"{n} x {m.gpus} x {m.kind.name} ({m.kind.memory_gib:.2f} GiB)" for m, n in parts)


def find_kind(name: str, memory_bytes: int | None = None) -> GpuKind:
    """The kind that a driver's or a user's name of a GPU means, with its measured memory where that is known.

    A name that no kind matches has the rates of a PCIe card, and needs `memory_bytes`.
    """
    plain = re.sub(r"[\s_-]\d+\s?gb|nvidia|geforce|rtx|tesla|generation|[\s_-]", "", name.lower())
    for other, known in _SAME.items():
        plain = plain.replace(other, known)
    matching = [kind for key, kind in KINDS.items() if re.search(rf"{key}(?!\d)", plain)]
    if plain.startswith("a100") and ("40gb" in name.lower() or (memory_bytes and memory_bytes < 50 * GIB)):
        matching = [KINDS["a100-40gb"]]
    kind = max(matching, key=lambda found: len(found.name), default=replace(_UNKNOWN, name=name))
    return replace(kind, memory_gib=memory_bytes / GIB) if memory_bytes else kind


def parse_gpus(value: str, network_gbit_s: float | None = None) -> Fleet:
    """ "2x8x4090" (machines x GPUs x kind), "8xH100", "4090"; unequal machines joined by "+".

    A kind may be a number of GiB instead of a name: "2x8x23.5GiB".

    Raises:
        LaunchFileError: it cannot be read, or the kind is not known.
    """
    machines: list[Machine] = []
    for part in value.split("+"):
        plain = re.sub(r"""["']""", "", part).strip()
        found = re.fullmatch(r"(?:(\d{1,4})\s*x\s*)?(?:(\d{1,3})\s*x\s*)?([A-Za-z0-9 ._-]+)", plain, re.IGNORECASE)
        if found is None:
            raise LaunchFileError(f"--gpus {text.printable(value)}: not machines x GPUs x kind", fix=_EXAMPLE)
        first, second, name = found.groups()
        if re.fullmatch(r"\d{1,3}|.*[x:]\s*\d{1,3}", name):
            raise LaunchFileError(f"--gpus {text.printable(value)}: the GPU's kind has to be the last", fix=_EXAMPLE)
        count, per_machine = (int(first), int(second)) if second else (1, int(first or 1))
        if not count or not per_machine:
            raise LaunchFileError(f"--gpus {text.printable(value)}: no GPUs", fix=_EXAMPLE)
        machines += [Machine(_read_kind(name.strip()), per_machine)] * count
    return _name_rate(Fleet(tuple(machines)), network_gbit_s)


def _name_rate(fleet: Fleet, network_gbit_s: float | None) -> Fleet:
    return fleet if network_gbit_s is None else replace(fleet, network_rate=network_gbit_s * _BYTES_PER_GBIT)


def _read_kind(name: str) -> GpuKind:
    if size := re.fullmatch(r"([\d.]+)\s*gi?b", name.lower()):
        return replace(_UNKNOWN, name=name, memory_gib=float(size[1]))
    kind = find_kind(name)
    if not kind.memory_gib:
        names = [known.name for known in _KINDS]
        begun = [known for known in names if known.upper().startswith(name.upper())]
        nearest = begun or difflib.get_close_matches(name.upper(), names, cutoff=0.75)
        raise LaunchFileError(
            f"GPU kind {text.printable(name)} is not known" + (f": nearest is {nearest[0]}" if nearest else ""),
            fix=f"name one of {', '.join(names)}, or its memory, as 8x23.5GiB",
        )
    return kind


@dataclass(frozen=True, slots=True)
class ClusterGpus:
    """What a cluster's nodes have: `raylaunch cluster-gpus` prints it."""

    nodes: list[list[tuple[str, int]]]
    """Name and bytes of each GPU, by node."""
    network_bytes_s: float = 0.0
    """What the last check of the network measured between nodes; 0 is not measured."""
    peer_bytes_s: float = 0.0


def read_cluster(answer: ClusterGpus, network_gbit_s: float | None) -> Fleet:
    """The machines of a cluster; link rates are the check's where it measured them.

    Args:
        network_gbit_s: what the user names goes before what was measured.

    Raises:
        LaunchFileError: it has no GPUs, or they exist in Ray's accounts only.
    """
    if not any(answer.nodes):
        raise LaunchFileError(
            "no driver on the cluster's nodes reports a GPU (logical GPUs have no memory to plan with)",
            fix="name them with --gpus, as 2x8x4090",
        )
    fleet = make_fleet(answer.nodes)
    return apply_rates(fleet, answer, network_gbit_s)


def apply_rates(fleet: Fleet, known: ClusterGpus, network_gbit_s: float | None) -> Fleet:
    """The fleet with the rates that a cluster's last check of the network measured."""
    measured = known.network_bytes_s if network_gbit_s is None else 0.0
    rate = network_gbit_s * _BYTES_PER_GBIT if network_gbit_s is not None else measured or fleet.network_rate
    peer = known.peer_bytes_s
    machines = tuple(replace(m, kind=replace(m.kind, peer_rate=peer)) if peer else m for m in fleet.machines)
    return Fleet(machines, rate, "measured by netcheck" if measured or peer else fleet.link_source)


def make_fleet(nodes: Sequence[Sequence[tuple[str, int]]]) -> Fleet:
    """Machines from the names and bytes of their GPUs; one that has unequal cards counts as its smallest."""
    machines = [Machine(find_kind(*min(node, key=lambda gpu: gpu[1])), len(node)) for node in nodes if node]
    return Fleet(tuple(machines))


def describe_gpus(machines: Sequence[Machine]) -> list[dict[str, object]]:
    """The machines for --json."""
    return [{"kind": m.kind.name, "gpus": m.gpus, "memory_gib": m.kind.memory_gib} for m in machines]
