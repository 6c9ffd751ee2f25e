"""One link between two nodes: round trip, rate both ways, and whether large packets arrive."""

import contextlib
import errno
import socket
import struct
import threading
import time
from dataclasses import dataclass

_PING, _SINK, _SOURCE = b"P", b"S", b"R"
_BLOCK = bytes(1 << 20)
_ROUNDS = 20
_TRIES = 3
_ACK_S = 0.3
"""Longest wait for the answer to one datagram: a hundred round trips of a local network."""
_IP_MTU_DISCOVER, _PROBE = 10, 3
"""linux/in.h: set "don't fragment", and ignore what the kernel knows of the path (IP_PMTUDISC_PROBE)."""
_HEADERS = 28
"""Bytes of an IPv4 and a UDP header."""


@dataclass(frozen=True, slots=True)
class LinkRequest:
    """Which link to measure, and for how long."""

    source: str
    """This node's own address in Ray."""
    target: str
    """The other node's."""
    ports: tuple[int, int]
    """TCP and UDP, of its LinkServer."""
    mtu: int
    """Of this node's interface, in bytes."""
    size: int = 64 << 20
    """Bytes to transfer each way, at most."""
    transfer_s: float = 1.5
    """Longest time of one transfer."""
    connect_s: float = 3.0
    is_short: bool = False
    """Open a connection and take the round trip, no more."""


@dataclass(frozen=True, slots=True)
class LinkMeasured:
    """One link as it was measured. None is "could not be measured"."""

    source: str
    target: str
    error: str = ""
    """Why nothing could be measured: no connection."""
    round_trip_us: float | None = None
    out_mb_s: float | None = None
    """10^6 bytes a second, from source to target; None where no bytes arrived."""
    in_mb_s: float | None = None
    lost: tuple[int, ...] = ()
    """Sizes of IP packets, in bytes, that never arrived, while smaller ones did."""
    passed: int = 0
    """Largest IP packet that arrived, in bytes; 0 where no datagram did (UDP may be blocked)."""
    out_resent: float = 0.0
    """Share of the packets from source to target that TCP had to send again: they were lost."""
    in_resent: float = 0.0


class LinkServer:
    """Answers the measurements of other nodes: TCP in a thread for each connection, datagrams in one."""

    def __init__(self, address: str) -> None:
        self._tcp = socket.create_server((address, 0))
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind((address, 0))
        self.ports: tuple[int, int] = (self._tcp.getsockname()[1], self._udp.getsockname()[1])
        for loop in (self._accept, self._answer_datagrams):
            threading.Thread(target=loop, daemon=True).start()

    def close(self) -> None:
        """End both threads."""
        for listening in (self._tcp, self._udp):
            with contextlib.suppress(OSError):  # a datagram socket has no peer to shut down, but its reader returns
                listening.shutdown(socket.SHUT_RDWR)
            listening.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                connection, _ = self._tcp.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _answer_datagrams(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                data, sender = self._udp.recvfrom(65535)
                if sender is None:  # shut down
                    return
                self._udp.sendto(struct.pack("!Q", len(data)), sender)

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.settimeout(30.0)
            while asked := connection.recv(1):
                if asked == _PING:
                    connection.sendall(asked)
                elif asked == _SINK:
                    (size,) = struct.unpack("!Q", _receive(connection, 8))
                    _drop(connection, size)
                    connection.sendall(b"!")
                elif asked == _SOURCE:
                    (size,) = struct.unpack("!Q", _receive(connection, 8))
                    _send(connection, size)
                    _receive(connection, 1)
                    connection.sendall(struct.pack("!d", _read_resent(connection)))


def _receive(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = connection.recv(size - len(data))
        if not piece:
            raise ConnectionResetError
        data += piece
    return data


def _drop(connection: socket.socket, size: int) -> None:
    room = bytearray(1 << 20)
    while size > 0:
        count = connection.recv_into(room, min(size, len(room)))
        if not count:
            raise ConnectionResetError
        size -= count


def _send(connection: socket.socket, size: int) -> None:
    while size > 0:
        connection.sendall(_BLOCK[: min(size, len(_BLOCK))])
        size -= len(_BLOCK)


def measure_link(request: LinkRequest) -> LinkMeasured:
    """Measure one link from this node, in at most about ten seconds."""
    try:
        round_trip_us = _measure_round_trip(request)
    except OSError as error:
        return LinkMeasured(request.source, request.target, error=error.strerror or str(error))
    if request.is_short:
        return LinkMeasured(request.source, request.target, round_trip_us=round_trip_us)
    lost, passed = _probe_packets(request)
    out_mb_s, out_resent = _measure_rate(request, _SINK)
    in_mb_s, in_resent = _measure_rate(request, _SOURCE)
    return LinkMeasured(
        request.source,
        request.target,
        round_trip_us=round_trip_us,
        out_mb_s=out_mb_s,
        in_mb_s=in_mb_s,
        lost=lost,
        passed=passed,
        out_resent=out_resent,
        in_resent=in_resent,
    )


def _connect(request: LinkRequest) -> socket.socket:
    connection = socket.create_connection(
        (request.target, request.ports[0]), timeout=request.connect_s, source_address=(request.source, 0)
    )
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _measure_round_trip(request: LinkRequest) -> float:
    """The median of some round trips of one byte, in microseconds."""
    with _connect(request) as connection:
        times = []
        for _ in range(_ROUNDS):
            began = time.perf_counter()
            connection.sendall(_PING)
            _receive(connection, 1)
            times.append(time.perf_counter() - began)
    return sorted(times)[len(times) // 2] * 1e6


def _measure_rate(request: LinkRequest, kind: bytes) -> tuple[float | None, float]:
    """10^6 bytes a second and the share sent again: first 1 MiB, then as much as fits into the time, at most `size`.

    The rate is None where the transfer stalls.
    """
    try:
        with _connect(request) as connection:
            connection.settimeout(request.transfer_s)
            first, _ = _time_transfer(connection, kind, len(_BLOCK))
            rest = int(min(request.size, len(_BLOCK) / first * request.transfer_s / 2))
            connection.settimeout(request.transfer_s * 2)
            seconds, resent = _time_transfer(connection, kind, rest)
            return rest / seconds / 1e6, resent
    except OSError:
        return None, 0.0


def _time_transfer(connection: socket.socket, kind: bytes, size: int) -> tuple[float, float]:
    """Seconds, and the share that was sent again."""
    began = time.perf_counter()
    connection.sendall(kind + struct.pack("!Q", size))
    if kind == _SINK:
        _send(connection, size)
        _receive(connection, 1)
        seconds, resent = time.perf_counter() - began, _read_resent(connection)
    else:
        _drop(connection, size)
        seconds = time.perf_counter() - began
        connection.sendall(b"!")
        (resent,) = struct.unpack("!d", _receive(connection, 8))
    return max(seconds, 1e-6), resent


def _read_resent(connection: socket.socket) -> float:
    """The share of this end's data packets that were sent again: total_retrans of data_segs_out (linux/tcp.h)."""
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 160)
    if len(info) < 160:  # a kernel older than 4.6
        return 0.0
    (resent,), (sent,) = struct.unpack_from("=I", info, 100), struct.unpack_from("=I", info, 156)
    return float(resent / sent) if sent else 0.0


def _probe_packets(request: LinkRequest) -> tuple[tuple[int, ...], int]:
    """Which sizes of packets never arrive, and the largest that does; needs no privileges."""
    sizes = [92, *(size for size in (1280, 1400, 1500, 4000) if size < request.mtu), request.mtu]
    lost: list[int] = []
    passed = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind((request.source, 0))
        probe.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PROBE)
        probe.settimeout(_ACK_S)
        for size in sorted({min(size, 65000) for size in sizes}):
            arrived = _arrives(probe, request, size)
            if arrived:
                passed = size
            elif arrived is False:
                lost.append(size)
                if not passed or len(lost) > 1:
                    break
    return (tuple(lost) if passed else ()), passed


def _arrives(probe: socket.socket, request: LinkRequest, size: int) -> bool | None:
    """None: this machine itself refuses to send it."""
    for _ in range(_TRIES):
        try:
            probe.sendto(bytes(size - _HEADERS), (request.target, request.ports[1]))
            while True:
                if struct.unpack("!Q", probe.recv(8))[0] == size - _HEADERS:
                    return True
        except TimeoutError:
            continue
        except OSError as error:
            if error.errno == errno.EMSGSIZE:
                return None
            raise
    return False
