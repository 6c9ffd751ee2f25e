"""A machine's figures: from this machine, and from a /proc whose counters the test moves."""

import os
import time
from pathlib import Path

import pytest

from raylaunch.node.host_sample import HostSampler, InterfaceSample

MEMINFO = "MemTotal: 1000 kB\nMemFree: 100 kB\nMemAvailable: 800 kB\n"


class Machine:
    """A /proc and /sys of the test's own."""

    def __init__(self, root: Path) -> None:
        self.root, self.now = root, 50.0
        for folder in ("proc/net", "proc/77", "sys/class/net/eth0"):
            (root / folder).mkdir(parents=True)
        (root / "proc/meminfo").write_text(MEMINFO)
        (root / "sys/class/net/eth0/speed").write_text("10000\n")
        self.write(user=100, idle=900, received=5000, sent=700, process=20)

    def write(self, *, user: int, idle: int, received: int, sent: int, process: int) -> None:
        (self.root / "proc/stat").write_text(f"cpu  {user} 0 0 {idle} 0 0 0 0 0 0\ncpu0 1 2 3\n")
        (self.root / "proc/net/dev").write_text(
            "Inter-|   Receive\n face |bytes    packets\n"
            f"  eth0: {received} 1 0 0 0 0 0 0 {sent} 1 0 0 0 0 0 0\n"
            " veth1: 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n"
        )
        fields = ["S", "1", *["0"] * 9, str(process), "0", *["0"] * 8, "3"]
        (self.root / "proc/77/stat").write_text(f"77 (ray::Worker (x)) {' '.join(fields)}")

    def sampler(self) -> HostSampler:
        return HostSampler("10.9.9.9", root=self.root, clock=lambda: self.now)


def test_rates_are_between_two_samples(tmp_path: Path) -> None:
    """Two seconds later: a quarter of the processor, 1,000 bytes/s in and 50 out, half a core for the process."""
    machine = Machine(tmp_path)
    sampler = machine.sampler()
    first = sampler.sample([77])
    assert first.cpu_percent is None
    assert first.interfaces == (InterfaceSample("eth0", None, None, False, 10000),)
    assert first.processes[0].cpu_percent is None
    ticks = os.sysconf("SC_CLK_TCK")
    machine.write(user=200, idle=1200, received=7000, sent=800, process=20 + ticks)
    machine.now += 2
    second = sampler.sample([77, 78])
    assert second.cpu_percent == pytest.approx(25.0)
    [eth0] = second.interfaces
    assert (eth0.in_bytes_per_s, eth0.out_bytes_per_s) == (1000.0, 50.0)
    [process] = second.processes
    assert (process.pid, process.cpu_percent) == (77, pytest.approx(50.0))
    assert process.rss_bytes == 3 * os.sysconf("SC_PAGE_SIZE")
    assert (second.ram_total_bytes, second.ram_used_bytes) == (1000 << 10, 200 << 10)


def test_an_interface_that_was_made_anew_has_no_rate(tmp_path: Path) -> None:
    """Counters that went back are no negative traffic."""
    machine = Machine(tmp_path)
    sampler = machine.sampler()
    sampler.sample()
    machine.write(user=200, idle=1200, received=10, sent=10, process=20)
    machine.now += 1
    assert sampler.sample().interfaces[0].in_bytes_per_s is None


def test_this_machine() -> None:
    """Loopback carries 127.0.0.2; this process is seen with its memory and the processor it burns."""
    sampler = HostSampler("127.0.0.2")
    sampler.sample([os.getpid()])
    until = time.process_time() + 0.2
    while time.process_time() < until:
        pass
    seen = sampler.sample([os.getpid(), 2_000_000_000])
    assert seen.cpu_percent is not None
    assert 0 < seen.cpu_percent <= 100
    assert [interface.is_nodes for interface in seen.interfaces if interface.name == "lo"] in ([True], [])
    [process] = seen.processes
    assert process.rss_bytes > 10 << 20
    assert process.cpu_percent
