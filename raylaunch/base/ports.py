"""TCP ports: which are free, who holds one, whether something listens."""

import contextlib
import errno
import socket
import time
from collections.abc import Callable

from raylaunch.base.errors import PortTakenError

_CONNECT_TIMEOUT_S = 5.0
ALL_INTERFACES = ("", "0.0.0.0", "::")
"""Hosts to bind that mean every interface."""
_POLL_S = 0.05
OTHER_PORT = "choose another with --set server.port=8090"
"""What to do where a port cannot be had; 8081 and 8082 are Ray's on a cluster that `up` started."""


def accepts_connections(address: str, timeout_s: float = _CONNECT_TIMEOUT_S) -> bool:
    """Whether something accepts TCP connections at "host:port"."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=timeout_s):
            return True
    except (OSError, ValueError):
        return False


def refuses_connections(host: str, port: int, timeout_s: float) -> bool:
    """Whether nothing listens at a port of a machine that answers; False for one that does not answer."""
    try:
        socket.create_connection((host, port), timeout_s).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False


def wait_for_port(port: int, timeout_s: float, is_running: Callable[[], bool] = lambda: True) -> bool:
    """Wait until something accepts connections at a port of 127.0.0.1; returns whether it does.

    Args:
        is_running: whether the program that shall listen still runs; the wait ends where it does not.
    """
    deadline = time.monotonic() + timeout_s
    while is_running() and time.monotonic() < deadline:
        if accepts_connections(f"127.0.0.1:{port}"):
            return True
        time.sleep(_POLL_S)
    return False


def check_port_free(host: str, port: int) -> None:
    """Bind the address for a moment.

    Raises:
        PortTakenError: another process listens there (named, where this user may see it), it is no address of this
            machine, or this user may not bind it.
    """
    fix_host = "set server.host to 127.0.0.1 or 0.0.0.0"
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError):
        raise PortTakenError(f"{host} is no address of this machine: it does not resolve", fix=fix_host) from None
    family, kind, _, _, address = found[0]
    with socket.socket(family, kind) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections in TIME_WAIT do not count
        try:
            trial.bind(address)
            trial.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise PortTakenError(f"{host}:{port} is taken {_describe_holders(port)}", fix=OTHER_PORT) from None
            if error.errno == errno.EACCES:
                raise PortTakenError(f"{host}:{port}: ports below 1024 need root", fix=OTHER_PORT) from None
            raise PortTakenError(f"{host}:{port}: {error.strerror}", fix=fix_host) from None


def _describe_holders(port: int) -> str:
    """Name and pid of the processes that listen on `port`, as far as this user may see them."""
    import psutil

    listening = [found for found in psutil.net_connections("tcp") if found.status == psutil.CONN_LISTEN]
    holders = []
    for pid in sorted({found.pid for found in listening if found.laddr.port == port and found.pid}):
        with contextlib.suppress(psutil.Error):  # gone meanwhile
            holders.append(f"{psutil.Process(pid).name()} (pid {pid})")
    return f"by {', '.join(holders)}" if holders else "(by a process that this user cannot see)"


def find_free_ports(count: int) -> list[int]:
    """Different TCP ports that are free at this moment."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
