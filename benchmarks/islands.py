"""Hosts on one machine for what copies between hosts: network namespaces on one bridge, links held to a rate by tc, and
in each a mount namespace with a memory file system of its own at the same path. Needs root.

A Ray node runs in each: the first is the head. What else runs there is started with `Island.command`.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from raylaunch.base import processes
from raylaunch.cluster import settings

HEAD_PORT = 6391
_NETWORK = "10.91.7"
GATEWAY = f"{_NETWORK}.254"
_PREFIX = "isle"
"""Of the names of links and namespaces on this machine; the pid of the process that made them follows."""
_START_S = 90.0
_STOP_S = 15.0
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0", "RAY_DISABLE_IMPORT_WARNING": "1", "OMP_NUM_THREADS": "1",
    "RAY_enable_metrics_collection": "0",
}  # fmt: skip


@dataclass
class Island:
    """A host: a network namespace, and a mount namespace that lives as long as its first process."""

    number: int
    namespace: str
    keeper: processes.Child
    """Holds the mount namespace."""
    ray: processes.Child | None = None

    @property
    def ip(self) -> str:
        """Its address on the bridge."""
        return f"{_NETWORK}.{self.number}"

    def find(self, path: Path) -> Path:
        """A path of this island as this machine reaches it."""
        return Path(f"/proc/{self.keeper.popen.pid}/root", *path.parts[1:])

    def list_pids(self) -> list[int]:
        """All processes in it but the one that holds it."""
        return [pid for pid in _list_pids(self.namespace) if pid != self.keeper.popen.pid]

    def command(self, arguments: Sequence[str]) -> list[str]:
        """`arguments` as a command that runs in this island."""
        target = f"--target={self.keeper.popen.pid}"
        return ["nsenter", target, "--mount", "--net", "--", "env", f"--chdir={Path.cwd()}", *arguments]


@dataclass
class Islands:
    """Several hosts with a Ray cluster over them."""

    data: Path
    """The folder that is a file system of its own in each."""
    scratch: Path
    islands: list[Island] = field(default_factory=list)

    @property
    def address(self) -> str:
        """Of the Ray cluster, from inside."""
        return f"{_NETWORK}.1:{HEAD_PORT}"

    def start_ray(self, island: Island) -> None:
        """Start the island's Ray node, and wait until it has joined."""
        where = ["--head", f"--port={HEAD_PORT}"] if island.number == 1 else [f"--address={self.address}"]
        folder = self.scratch / f"r{island.number}"  # one each: raylets of one session folder would share their sockets
        log = self.scratch / f"ray{island.number}.log"
        command = [
            sys.executable, "-m", "ray.scripts.scripts", "start", *where, "--block", "--num-gpus=1", "--num-cpus=1",
            f"--node-ip-address={island.ip}", f"--temp-dir={folder}", "--object-store-memory=500000000",
            "--disable-usage-stats", *(["--include-dashboard=false"] if island.number == 1 else []),
        ]  # fmt: skip
        with log.open("wb") as output:
            island.ray = processes.Child.start(
                island.command(command),
                environment={**os.environ, **_QUIET, **settings.NODE},
                output=output,
            )
        if not processes.wait_until(lambda: "Ray runtime started" in log.read_text(errors="replace"), _START_S):
            raise RuntimeError(f"no Ray on {island.ip}:\n{log.read_text(errors='replace')[-2000:]}")

    def wait_alive(self, count: int) -> None:
        """Wait until the head counts so many living nodes: of one that was killed it learns a little later."""
        code = (
            "import ray, sys, time; ray.init(address=sys.argv[1], log_to_driver=False)\n"
            "while sum(node['Alive'] for node in ray.nodes()) != int(sys.argv[2]): time.sleep(0.1)"
        )
        waiting = self.run(self.islands[0], [sys.executable, "-c", code, self.address, str(count)])
        text, _ = waiting.communicate(timeout=_START_S)
        if waiting.returncode:
            raise RuntimeError(text)

    def run(self, island: Island, arguments: Sequence[str], **environment: str) -> "subprocess.Popen[str]":
        """Start a command in an island, its output piped."""
        return subprocess.Popen(
            island.command(arguments),
            env={**os.environ, **_QUIET, "RAY_ADDRESS": self.address, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
        )

    def kill_ray(self, island: Island) -> None:
        """Kill the island's Ray node with all it started, as a power cut would."""
        assert island.ray is not None
        for pid in island.list_pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        island.ray.popen.wait()
        island.ray = None


@contextlib.contextmanager
def islands(
    count: int,
    data: Path,
    *,
    link_mbit: float | None = None,
    bare: int = 0,
    data_mib: int = 8192,
    is_reachable: bool = False,
) -> Iterator[Islands]:
    """Hosts with Ray, all gone at the end of the block.

    Args:
        count: hosts with a Ray node.
        data: folder that is a file system of its own in each; made if it is not there.
        link_mbit: rate of each host's link in either direction; None leaves it free.
        bare: hosts behind them without Ray.
        data_mib: size of each file system.
        is_reachable: give this machine the address GATEWAY on their bridge.
    """
    _remove_leftovers()
    prefix = f"{_PREFIX}{os.getpid()}"
    data.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="isles-"))  # short: Ray's sockets live under it (107 bytes at most)
    made = Islands(data, scratch)
    try:
        _make_bridge(prefix, is_reachable=is_reachable)
        for number in range(1, count + bare + 1):
            made.islands.append(_make_island(prefix, number, data, data_mib, link_mbit))
        for island in made.islands[:count]:
            made.start_ray(island)
        yield made
    finally:
        for island in reversed(made.islands):
            if island.ray is not None:
                island.ray.send(15)
        deadline = time.monotonic() + _STOP_S
        for island in reversed(made.islands):
            if island.ray is not None:
                island.ray.wait_or_kill(max(0.5, deadline - time.monotonic()))
        for island in reversed(made.islands):
            for pid in _list_pids(island.namespace):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, 9)
            island.keeper.popen.wait()
        _remove_network(prefix)
        shutil.rmtree(scratch, ignore_errors=True)


def _remove_network(prefix: str) -> None:
    # The kernel takes a namespace's links away some time after its name: the next hosts would find it there.
    subprocess.run(["ip", "link", "del", prefix], check=False, capture_output=True)
    for name in Path("/run/netns").glob(f"{prefix}-*"):
        subprocess.run(["ip", "netns", "del", name.name], check=False, capture_output=True)


def _remove_leftovers() -> None:
    """Of runs that were killed: their link has this one's address."""
    names = [*Path("/sys/class/net").glob(f"{_PREFIX}*"), *Path("/run/netns").glob(f"{_PREFIX}*-0")]
    for name in {path.name.removesuffix("-0") for path in names}:
        if not Path("/proc", name.removeprefix(_PREFIX)).exists():
            _remove_network(name)


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


def _make_bridge(prefix: str, *, is_reachable: bool) -> None:
    middle = f"{prefix}-0"
    _ip("netns", "add", middle)
    for step in (["link", "set", "lo", "up"], ["link", "add", "br0", "type", "bridge"], ["link", "set", "br0", "up"]):
        _ip("-n", middle, *step)
    if is_reachable:
        _ip("link", "add", prefix, "type", "veth", "peer", "name", "out", "netns", middle)
        _ip("-n", middle, "link", "set", "out", "master", "br0", "up")
        _ip("addr", "add", f"{GATEWAY}/24", "dev", prefix)
        _ip("link", "set", prefix, "up")


def _make_island(prefix: str, number: int, data: Path, data_mib: int, link_mbit: float | None) -> Island:
    own, middle, port = f"{prefix}-{number}", f"{prefix}-0", f"e{number}"
    _ip("netns", "add", own)
    _ip("link", "add", port, "netns", middle, "type", "veth", "peer", "name", "eth0", "netns", own)
    _ip("-n", middle, "link", "set", port, "master", "br0", "up")
    _ip("-n", own, "link", "set", "lo", "up")
    _ip("-n", own, "addr", "add", f"{_NETWORK}.{number}/24", "dev", "eth0")
    _ip("-n", own, "link", "set", "eth0", "up")
    if link_mbit is not None:
        held = ["rate", f"{link_mbit}mbit", "burst", "256k", "limit", "2m"]
        for namespace, device in ((own, "eth0"), (middle, port)):
            subprocess.run(
                ["tc", "-n", namespace, "qdisc", "add", "dev", device, "root", "tbf", *held],
                check=True,
            )
    script = 'mount -t tmpfs -o size="$2"m tmpfs "$1" && echo up && exec sleep infinity'
    with tempfile.TemporaryFile() as output:
        keeper = processes.Child.start(
            ["ip", "netns", "exec", own, "unshare", "--mount", "sh", "-c", script, "sh", str(data), str(data_mib)],
            environment=os.environ,
            output=output,
        )

        def is_up() -> bool:
            return os.pread(output.fileno(), 16, 0) == b"up\n"

        if not processes.wait_until(is_up, _START_S):
            raise RuntimeError(f"no mount namespace: {os.pread(output.fileno(), 2000, 0)!r}")
    return Island(number, own, keeper)


def _list_pids(namespace: str) -> list[int]:
    listed = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True, check=False)
    return [int(pid) for pid in listed.stdout.split()]
