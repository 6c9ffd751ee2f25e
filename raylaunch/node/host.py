"""Memory of this machine, or of this container, and the names of its processes."""

from pathlib import Path


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


def read_process_name(pid: int) -> str:
    """The process's name (15 characters at most); "" for a pid that does not exist in this container."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""
