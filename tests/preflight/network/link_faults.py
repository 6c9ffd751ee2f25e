"""Faults of links and hosts, in the network namespaces of islands: each holds within its block."""

import ctypes
import heapq
import select
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.islands import Island, Islands

_CLONE_NEWNET = 0x40000000
_SOL_PACKET, _PACKET_VNET_HDR, _ETH_P_ALL, _OUTGOING = 263, 15, 3, 4
"""linux/if_packet.h, linux/if_ether.h. With the header of virtio a frame keeps its place in a checksum that the card
would complete, and its size before segmentation."""


def run_in(island: Island, *words: str) -> None:
    subprocess.run(island.command(words), check=True, capture_output=True)


@contextmanager
def firewall(island: Island, *rules: Sequence[str]) -> Iterator[None]:
    """iptables rules on what comes in, in their order."""
    try:
        for rule in rules:
            run_in(island, "iptables", "-A", "INPUT", *rule)
        yield
    finally:
        run_in(island, "iptables", "-F", "INPUT")


def list_ports(island: Island) -> list[str]:
    """TCP ports that listen in it now."""
    listed = subprocess.run(island.command(["ss", "-Htln"]), check=True, capture_output=True, text=True).stdout
    return sorted({line.split()[3].rpartition(":")[2] for line in listed.splitlines()})


@contextmanager
def only_open_ports(island: Island, *, workers: str = "10002:19999") -> Iterator[None]:
    """A firewall that lets pass what listens now and Ray's workers, and drops every other connection from outside."""
    allowed = [
        ["-i", "eth0", "-p", "tcp", "--syn", "-m", "multiport", "--dports", ",".join(some), "-j", "ACCEPT"]
        for ports in [list_ports(island)]
        for some in (ports[number : number + 15] for number in range(0, len(ports), 15))
    ]
    allowed.append(["-i", "eth0", "-p", "tcp", "--syn", "--dport", workers, "-j", "ACCEPT"])
    with firewall(island, *allowed, ["-i", "eth0", "-p", "tcp", "--syn", "-j", "DROP"]):
        yield


@contextmanager
def losing(island: Island, share: float) -> Iterator[None]:
    """What comes in loses this share of its packets; what goes out loses none."""
    often = ["-m", "statistic", "--mode", "random", "--probability", str(share)]
    with firewall(island, ["-i", "eth0", *often, "-j", "DROP"]):
        yield


@contextmanager
def hosts_file(island: Island, text: str, scratch: Path) -> Iterator[None]:
    """Another /etc/hosts."""
    path = scratch / f"hosts{island.number}"
    path.write_text(text)
    run_in(island, "mount", "--bind", str(path), "/etc/hosts")
    try:
        yield
    finally:
        run_in(island, "umount", "/etc/hosts")


@contextmanager
def interface(island: Island, name: str, *addresses: str) -> Iterator[None]:
    """An interface that leads nowhere, as docker0 without containers."""
    run_in(island, "ip", "link", "add", name, "type", "bridge")
    try:
        for address in addresses:
            run_in(island, "ip", "addr", "add", address, "dev", name)
        run_in(island, "ip", "link", "set", name, "up")
        yield
    finally:
        run_in(island, "ip", "link", "del", name)


@contextmanager
def delayed(hosts: Islands, delay_s: float) -> Iterator[None]:
    """Every packet of the first host, in and out, comes that much later."""
    first = hosts.islands[0]
    middle, port = f"{first.namespace[:-2]}-0", f"e{first.number}"
    subprocess.run(["ip", "-n", middle, "link", "set", port, "nomaster"], check=True)
    for words in (
        ["link", "add", "late", "type", "veth", "peer", "name", "late0"],
        ["link", "set", "late0", "master", "br0", "up"],
        ["link", "set", "late", "up"],
    ):
        subprocess.run(["ip", "-n", middle, *words], check=True)
    done = threading.Event()
    ready = threading.Event()
    relay = threading.Thread(target=_relay, args=(middle, (port, "late"), delay_s, ready, done))
    relay.start()
    ready.wait(10)
    try:
        yield
    finally:
        done.set()
        relay.join()
        subprocess.run(["ip", "-n", middle, "link", "del", "late"], check=True)
        subprocess.run(["ip", "-n", middle, "link", "set", port, "master", "br0"], check=True)


def _relay(
    namespace: str, ports: tuple[str, str], delay_s: float, ready: threading.Event, done: threading.Event
) -> None:
    """Hand frames from one port to the other, late. The thread stays in the namespace: it ends with the fault."""
    with Path("/run/netns", namespace).open("rb") as handle:
        if ctypes.CDLL(None, use_errno=True).setns(handle.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
    sockets = []
    for port in ports:
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
        raw.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
        raw.bind((port, 0))
        sockets.append(raw)
    ready.set()
    waiting: list[tuple[float, int, int, bytes]] = []
    count = 0
    while not done.is_set():
        timeout = max(0.0, waiting[0][0] - time.monotonic()) if waiting else 0.1
        for raw in select.select(sockets, [], [], min(timeout, 0.1))[0]:
            frame, address = raw.recvfrom(1 << 17)
            if address[2] != _OUTGOING:
                count += 1
                heapq.heappush(waiting, (time.monotonic() + delay_s, count, 1 - sockets.index(raw), frame))
        while waiting and waiting[0][0] <= time.monotonic():
            _, _, number, frame = heapq.heappop(waiting)
            sockets[number].send(frame)
    for raw in sockets:
        raw.close()
