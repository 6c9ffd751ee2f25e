"""Whether an address is free to serve on, and who has it."""

import contextlib
import errno
import socket
from pathlib import Path

from raylaunch.base.errors import PortTakenError

_LISTENING = "0A"  # state TCP_LISTEN in /proc/net/tcp (proc(5))
_CONNECT_TIMEOUT_S = 5.0


def accepts_connections(address: str, timeout_s: float = _CONNECT_TIMEOUT_S) -> bool:
    """Whether something accepts TCP connections at "host:port"."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=timeout_s):
            return True
    except (OSError, ValueError):
        return False


def check_port_free(host: str, port: int) -> None:
    """Bind the address for a moment.

    Raises:
        PortTakenError: somebody listens there (named, where this user may see it), it is no address of this machine,
            or this user may not have it.
    """
    fix = "choose another with --set server.port=8081"
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError):
        raise PortTakenError(
            f"{host} is no address of this machine: it does not resolve", fix="set server.host to 127.0.0.1 or 0.0.0.0"
        ) from None
    family, kind, _, _, address = found[0]
    with socket.socket(family, kind) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that just ended do not count
        try:
            trial.bind(address)
            trial.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise PortTakenError(f"{host}:{port} is taken{_describe_holder(port)}", fix=fix) from None
            if error.errno == errno.EACCES:
                raise PortTakenError(f"{host}:{port}: ports below 1024 need root", fix=fix) from None
            raise PortTakenError(
                f"{host}:{port}: {error.strerror}", fix="set server.host to 127.0.0.1 or 0.0.0.0"
            ) from None


def _describe_holder(port: int) -> str:
    holders = find_holders(port)
    if not holders:
        return " (by a process that this user cannot see)"
    return " by " + ", ".join(f"{name} (pid {pid})" for pid, name in holders)


def find_holders(port: int) -> list[tuple[int, str]]:
    """Pid and name of the processes that listen on a TCP port, as far as this user may see them."""
    wanted = {f"socket:[{inode}]" for inode in _list_listening_inodes(port)}
    holders = []
    for process in Path("/proc").iterdir() if wanted else ():
        if not process.name.isdigit():
            continue
        try:
            if any(str(link.readlink()) in wanted for link in (process / "fd").iterdir()):
                holders.append((int(process.name), (process / "comm").read_text().strip()))
        except OSError:  # gone meanwhile, or another user's
            continue
    return sorted(holders)


def _list_listening_inodes(port: int) -> set[str]:
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                inodes.add(fields[9])
    return inodes


def find_free_ports(count: int) -> list[int]:
    """TCP ports that nobody listens on at this moment, all different."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
