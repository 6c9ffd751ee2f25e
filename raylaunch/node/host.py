"""Memory of this machine, or of this container, its network interfaces, and the names of its processes."""

import fcntl
import socket
import struct
from pathlib import Path

_SIOCGIFADDR = 0x8915


def measure_ram(root: Path = Path("/")) -> tuple[int, int]:
    """Total and available memory in bytes: the container's (control group v2, v1) where it has a limit.

    Args:
        root: the folder with proc/ and sys/.
    """
    lines = (line.partition(":") for line in (root / "proc/meminfo").read_text().splitlines())
    kib = {name: int(rest.split()[0]) for name, _, rest in lines if rest.split()}
    total = kib["MemTotal"] << 10
    available = kib.get("MemAvailable", kib["MemFree"]) << 10
    for limit_file, used_file, cache in (
        ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory.current", "inactive_file"),
        (
            "sys/fs/cgroup/memory/memory.limit_in_bytes",
            "sys/fs/cgroup/memory/memory.usage_in_bytes",
            "total_inactive_file",
        ),
    ):
        try:
            limit = int((root / limit_file).read_text())
            used = int((root / used_file).read_text())
            stat = (root / limit_file).with_name("memory.stat").read_text()
        except (OSError, ValueError):
            continue  # no such control group, or "max"
        reclaimable = dict(line.split() for line in stat.splitlines() if line).get(cache, "0")
        if limit < total:
            total = limit
            available = min(available, max(0, limit - used + int(reclaimable)))
    return total, available


def find_address(interface: str) -> str:
    """The first IPv4 address of a network interface; "" where it has none."""
    request = struct.pack("256s", interface.encode()[:15])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        try:
            return socket.inet_ntoa(fcntl.ioctl(asked.fileno(), _SIOCGIFADDR, request)[20:24])
        except OSError:
            return ""


def read_link_speed(interface: str, root: Path = Path("/")) -> int | None:
    """Mbit/s of an interface's link, as its driver reports it; None without one (virtual, loopback, down).

    Args:
        root: the folder with sys/.
    """
    try:
        speed = int((root / "sys/class/net" / interface / "speed").read_text())
    except (OSError, ValueError):
        return None
    return speed if speed > 0 else None


def read_process_name(pid: int) -> str:
    """The process's name (15 characters at most); "" for a pid that does not exist in this container."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""
