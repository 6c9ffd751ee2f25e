"""One machine's CPU, memory, network and given processes at this moment, from /proc. Rates are between two samples."""

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from raylaunch.node.host import find_address, measure_ram, read_link_speed

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class InterfaceSample:
    """A network interface. Traffic that bypasses the kernel (RDMA) is not counted."""

    name: str
    in_bytes_per_s: float | None
    """None in the first sample of it."""
    out_bytes_per_s: float | None
    is_nodes: bool
    """Whether it has the node's address in Ray."""
    speed_mbit_s: int | None
    """Of its link; None without one (virtual, loopback, down)."""


@dataclass(frozen=True, slots=True)
class ProcessSample:
    """One of the given processes."""

    pid: int
    cpu_percent: float | None
    """100 is one core; None in the first sample of it."""
    rss_bytes: int


@dataclass(frozen=True, slots=True)
class HostSample:
    """A machine at one moment."""

    cores: int
    cpu_percent: float | None
    """Of all cores together, 0 to 100; None in the first sample."""
    ram_total_bytes: int
    """Of the machine, or of the container's control group where that has less."""
    ram_used_bytes: int
    """Total minus available."""
    interfaces: tuple[InterfaceSample, ...]
    processes: tuple[ProcessSample, ...]


@dataclass(frozen=True, slots=True)
class _Counters:
    """The kernel's counters at `at` (monotonic, seconds)."""

    at: float
    cpu_busy: float
    cpu_total: float
    network: dict[str, tuple[int, int]]
    process_s: dict[int, float]


class HostSampler:
    """Samples this machine, and remembers the counters of the sample before.

    Args:
        node_ip: the address whose interface is marked.
        root: where /proc and /sys are.
        clock: monotonic seconds.
    """

    def __init__(
        self, node_ip: str = "", *, root: Path = Path("/"), clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._node_ip, self._root, self._clock = node_ip, root, clock
        self._before: _Counters | None = None
        self._details: dict[str, tuple[bool, int | None]] = {}

    def sample(self, pids: Iterable[int] = ()) -> HostSample:
        """The machine now; processes of `pids` that are gone are left out."""
        memory: dict[int, int] = {}
        now = self._count(pids, memory)
        before, self._before = self._before, now
        elapsed_s = max(1e-3, now.at - before.at) if before else 1.0
        total, available = measure_ram(self._root)
        return HostSample(
            cores=os.cpu_count() or 1,
            cpu_percent=_find_cpu(before, now),
            ram_total_bytes=total,
            ram_used_bytes=total - available,
            interfaces=tuple(self._sample_interface(name, before, now, elapsed_s) for name in now.network),
            processes=tuple(_sample_process(pid, rss, before, now, elapsed_s) for pid, rss in memory.items()),
        )

    def _count(self, pids: Iterable[int], memory: dict[int, int]) -> _Counters:
        proc = self._root / "proc"
        ticks = [int(part) for part in (proc / "stat").read_text().partition("\n")[0].split()[1:9]]
        idle = ticks[3] + ticks[4]  # idle, iowait (proc(5)); guests are in user already
        process_s = {}
        for pid in pids:
            try:
                fields = (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()
            except (OSError, UnicodeDecodeError):
                continue
            process_s[pid] = (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
            memory[pid] = int(fields[21]) * _PAGE_BYTES
        network = {}
        for line in (proc / "net/dev").read_text().splitlines()[2:]:
            name, _, rest = line.partition(":")
            received, sent = int((numbers := rest.split())[0]), int(numbers[8])
            if received or sent:  # a host of containers has dozens without traffic
                network[name.strip()] = received, sent
        return _Counters(self._clock(), sum(ticks) - idle, sum(ticks), network, process_s)

    def _sample_interface(self, name: str, before: _Counters | None, now: _Counters, s: float) -> InterfaceSample:
        was = before.network.get(name) if before else None
        received, sent = now.network[name]
        if name not in self._details:
            is_nodes = name == "lo" if self._node_ip.startswith("127.") else find_address(name) == self._node_ip
            self._details[name] = is_nodes, read_link_speed(name, self._root)
        is_nodes, speed = self._details[name]
        if was is None or received < was[0] or sent < was[1]:  # new, or created again
            return InterfaceSample(name, None, None, is_nodes, speed)
        return InterfaceSample(name, (received - was[0]) / s, (sent - was[1]) / s, is_nodes, speed)


def _find_cpu(before: _Counters | None, now: _Counters) -> float | None:
    if before is None or now.cpu_total <= before.cpu_total:
        return None
    return 100.0 * (now.cpu_busy - before.cpu_busy) / (now.cpu_total - before.cpu_total)


def _sample_process(pid: int, rss: int, before: _Counters | None, now: _Counters, s: float) -> ProcessSample:
    was = before.process_s.get(pid) if before else None
    used = None if was is None else max(0.0, 100.0 * (now.process_s[pid] - was) / s)
    return ProcessSample(pid, used, rss)
