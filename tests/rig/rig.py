"""Hosts on one machine, a network of their own, and the laptop that reaches them: this machine itself.

::

    this machine ("the laptop")  10.77.N.1 ─ bridge rlN ─┬─ rlNh1 ═ eth0  h1  10.77.N.11
                                                         └─ rlNh2 ═ eth0  h2  10.77.N.12

N is free on this machine and held by a lock, so that several rigs run at once; a rig whose process was killed leaves
no process (the kernel ends them with it), and what else it left is swept by the next one that takes its N.
"""

import fcntl
import json
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from tests.rig.host import DEADLINE_S, ENVIRON, HERE, Host, remove_cgroup, run_here, wait_until

_LOCKS = Path("/tmp/raylaunch-rigs")
_FIRST_ADDRESS = 11


@dataclass
class Rig:
    """Some hosts, their network, and a key pair that opens them (as root)."""

    number: int
    folder: Path
    lock: IO[str] = field(repr=False)
    shared: tuple[Path, ...] = ()
    """Folders of this machine that the hosts see as they are, wherever they lie."""
    hosts: list[Host] = field(default_factory=list)
    """Those that were asked for at the start; the first is the head."""
    docker_folder: Path | None = None
    """What is in docker's folder on each host before its dockerd starts; nothing, if None."""
    strangers: list[Host] = field(default_factory=list)
    """Those that know nothing of the key."""

    @property
    def head(self) -> Host:
        return self.hosts[0]

    @property
    def workers(self) -> list[Host]:
        return self.hosts[1:]

    @property
    def bridge(self) -> str:
        return f"rl{self.number}"

    @property
    def laptop_address(self) -> str:
        return f"10.77.{self.number}.1"

    @property
    def key(self) -> Path:
        """The private key."""
        return self.folder / "id_ed25519"

    @property
    def public_key(self) -> str:
        return self.key.with_suffix(".pub").read_text()

    def write_known_hosts(self, file: Path) -> Path:
        """Write what ssh needs to know the hosts by, as a user who has compared fingerprints has it."""
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file.write_text("".join(f"{host.address} {host.host_key}\n" for host in [*self.hosts, *self.strangers]))
        return file

    def add_stranger(self, name: str = "stranger") -> Host:
        """One more host on the same network, which the rig's key does not open; it has no dockerd."""
        host = self._start_host(name)
        self.strangers.append(host)
        self._furnish([host], with_docker=False)
        return host

    def _add_hosts(self, count: int, *, with_docker: bool) -> None:
        for number in range(1, count + 1):
            self.hosts.append(self._start_host(f"h{number}"))
        self._furnish(self.hosts, with_docker=with_docker)

    def _furnish(self, hosts: list[Host], *, with_docker: bool) -> None:
        for host in hosts:
            host.furnish(self.public_key if host in self.hosts else None)
            host.start_sshd()
            if with_docker:
                host.start_docker()
        all_hosts = [*self.hosts, *self.strangers]
        names = "".join(f"{host.address} {host.name}\n" for host in all_hosts)
        for host in all_hosts:
            host.write("/etc/hosts", f"127.0.0.1 localhost\n{names}")
        for host in hosts if with_docker else ():
            host.wait_docker()

    def reboot(self, host: Host) -> None:
        """Cut a host's power and start it anew: its disk is as it was, and sshd and dockerd come up by themselves."""
        host.cut_power()
        host.outer.wait(timeout=DEADLINE_S)
        wait_until(lambda: not Path(f"/sys/class/net/{host.link}").exists(), f"{host.name}: its cable's end")
        host.outer, host.pid = self._boot(host.name, host.disk, host.link, host.address)
        self._furnish([host], with_docker=True)

    def _start_host(self, name: str) -> Host:
        count = len(self.hosts) + len(self.strangers)
        link = f"{self.bridge}h{count + 1}"
        disk = self.folder / name
        disk.mkdir(exist_ok=True)
        if self.docker_folder is not None:
            _copy_docker_folder(self.docker_folder, disk / "docker")
        address = f"10.77.{self.number}.{_FIRST_ADDRESS + count}"
        outer, pid = self._boot(name, disk, link, address)
        return Host(name=name, address=address, link=link, cgroup=link, disk=disk, outer=outer, pid=pid)

    def _boot(self, name: str, disk: Path, link: str, address: str) -> "tuple[subprocess.Popen[str], int]":
        """Start a host's process 1, and plug its cable in; `unshare`, and that process."""
        outer = subprocess.Popen(
            # The kernel ends unshare with the thread that started it, and --kill-child the host with unshare.
            ["setpriv", "--pdeathsig", "KILL", "--", "env", "-i", *ENVIRON, "unshare", "--net", "--mount", "--pid",
             "--ipc", "--uts", "--fork", "--kill-child", "--", "bash", str(HERE / "host_init.sh"), name, str(disk),
             *map(str, self.shared)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        assert outer.stdout is not None
        assert outer.stderr is not None
        assert outer.stdout.readline() == "ready\n", f"{name} did not start: {outer.stderr.read()}"
        (pid,) = Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split()
        run_here("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", pid)
        run_here("ip", "link", "set", link, "master", self.bridge, "up")
        run_here(
            *("nsenter", "-t", pid, "-n", "--", "sh", "-c"),
            f"ip link set lo up; ip addr add {address}/24 dev eth0; ip link set eth0 up; "
            f"ip route add default via {self.laptop_address}",
        )
        return outer, int(pid)

    def close(self) -> None:
        """Undo everything: processes by their ids, network, control groups, files."""
        all_hosts = [*self.strangers, *self.hosts]
        for host in all_hosts:
            host.cut_power()
        for host in all_hosts:
            host.remove()
        run_here("ip", "link", "del", self.bridge)
        shutil.rmtree(self.folder)
        self.lock.close()


def _take_number(numbers: Iterable[int]) -> tuple[int, IO[str]]:
    """A number that no other rig and no network of this machine has, and the lock that holds it."""
    _LOCKS.mkdir(exist_ok=True)
    for number in numbers:
        lock = (_LOCKS / f"{number}.lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            continue
        _sweep(number)
        addresses = json.loads(run_here("ip", "-json", "-4", "addr"))
        held = {address["local"] for link in addresses for address in link["addr_info"]}
        if not any(address.startswith(f"10.77.{number}.") for address in held):
            return number, lock
        lock.close()
    raise AssertionError("no network 10.77.N.0/24 is free on this machine")


def _sweep(number: int) -> None:
    """Remove what a rig of this number left when its process was killed; its hosts ended with it."""
    names = [link["ifname"] for link in json.loads(run_here("ip", "-json", "link"))]
    for name in names:
        if name == f"rl{number}" or name.startswith(f"rl{number}h"):
            # A killed host's cable goes with its namespace, which the kernel may be taking down at this moment.
            subprocess.run(["ip", "link", "del", name], stderr=subprocess.DEVNULL, check=False)
            wait_until(lambda name=name: not Path(f"/sys/class/net/{name}").exists(), f"{name}: its end")  # type: ignore[misc]
    for index in range(1, 16):
        remove_cgroup(f"rl{number}h{index}")


def _copy_docker_folder(source: Path, target: Path) -> None:
    """Copy docker's folder; the layers, which are never written to, as hard links: they take no space twice."""
    target.mkdir()
    for path in source.iterdir():
        run_here("cp", "-al" if path.name == "overlay2" else "-a", str(path), str(target))


@contextmanager
def start_rig(
    folder: Path,
    hosts: int = 2,
    *,
    with_docker: bool = True,
    shared: tuple[Path, ...] = (),
    docker_folder: Path | None = None,
    numbers: Iterable[int] = range(1, 250),
) -> Iterator[Rig]:
    """Hosts h1, h2, ... with sshd (and dockerd), all of them gone afterwards.

    Args:
        folder: is made, filled with the hosts' disks and the key, and removed; on a real disk (not tmpfs, not overlay)
            where dockerd runs, and with room for as many images as there are hosts.
        docker_folder: docker's own folder of images that every host has from the start, on the same disk.
        numbers: of which the first free one is taken.
        shared: folders of this machine that the hosts see as they are, though /home, /root, /tmp and /data are theirs.
    """
    number, lock = _take_number(numbers)
    folder.mkdir(parents=True)
    rig = Rig(number, folder, lock, shared, docker_folder=docker_folder)
    run_here("ip", "link", "add", rig.bridge, "type", "bridge")
    try:
        run_here("ip", "addr", "add", f"{rig.laptop_address}/24", "dev", rig.bridge)
        run_here("ip", "link", "set", rig.bridge, "up")
        run_here("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(rig.key))
        rig._add_hosts(hosts, with_docker=with_docker)
        yield rig
    finally:
        rig.close()
