"""Links between two network namespaces: healthy ones, and each with one fault. Needs root and iproute2."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks.islands import Island, Islands, islands
from raylaunch.node.network.interfaces import read_network
from raylaunch.node.network.links import LinkMeasured, LinkRequest, LinkServer, measure_link
from raylaunch.preflight.network.link_rules import judge_links
from raylaunch.preflight.network.measured import NetworkMeasured
from tests.preflight.network.link_faults import delayed, losing

_SERVE = """
import sys, time
from raylaunch.node.network.links import LinkServer
server = LinkServer(sys.argv[1])
print(*server.ports, flush=True)
time.sleep(120)
"""
_MEASURE = """
import json, sys
from dataclasses import asdict
from raylaunch.node.network.interfaces import read_network
from raylaunch.node.network.links import LinkRequest, measure_link
asked = json.loads(sys.argv[1])
asked["ports"] = tuple(asked["ports"])
print(json.dumps([asdict(measure_link(LinkRequest(**asked))), asdict(read_network(asked["source"]))]))
"""


def test_loopback_is_healthy() -> None:
    """Both ways at some rate, a round trip, and large packets arrive."""
    server = LinkServer("127.0.0.1")
    found = measure_link(LinkRequest("127.0.0.1", "127.0.0.1", server.ports, mtu=9000, transfer_s=0.2))
    server.close()
    assert found.error == ""
    assert found.out_mb_s
    assert found.in_mb_s
    assert found.round_trip_us
    assert (found.lost, found.passed) == ((), 9000)


def test_nobody_listens() -> None:
    server = LinkServer("127.0.0.1")
    server.close()
    assert measure_link(LinkRequest("127.0.0.1", "127.0.0.1", server.ports, mtu=1500)).error == "Connection refused"


def test_own_interfaces() -> None:
    """Loopback is among them, with its address and MTU."""
    facts = read_network("127.0.0.1")
    own = facts.find_own()
    assert own is not None
    assert (own.name, own.address) == ("lo", "127.0.0.1")
    assert own.mtu >= 1500


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Islands]:
    """Two hosts on one bridge, without Ray."""
    with islands(0, tmp_path_factory.mktemp("data"), bare=2, data_mib=16) as made:
        yield made


def configure(namespace: str, *words: str, tool: str = "ip") -> None:
    subprocess.run([tool, "-n", namespace, *words], check=True, capture_output=True)


def measure(hosts: Islands) -> NetworkMeasured:
    """The link from the first host to the second."""
    first, second = hosts.islands
    with serve(hosts, second) as ports:
        mtu = int(read_in(first, Path("/sys/class/net/eth0/mtu")))
        asked = LinkRequest(first.ip, second.ip, ports, mtu, transfer_s=1.0)
        done = hosts.run(first, [sys.executable, "-c", _MEASURE, json.dumps(asdict(asked))])
        text, _ = done.communicate(timeout=60)
        link, facts = json.loads(text)
    network = read_network("127.0.0.1")
    interfaces = tuple(type(network.interfaces[0])(**one) for one in facts.pop("interfaces"))
    return NetworkMeasured(
        places=(),
        facts=(
            type(network)(**{**facts, "interfaces": interfaces}),
            type(network)(**asdict(network) | {"machine": ""}),
        ),
        links=(LinkMeasured(**{**link, "lost": tuple(link["lost"])}),),
    )


def read_in(island: Island, path: Path) -> str:
    return subprocess.run(island.command(["cat", str(path)]), check=True, capture_output=True, text=True).stdout


@contextmanager
def serve(hosts: Islands, island: Island) -> Iterator[tuple[int, int]]:
    process = hosts.run(island, [sys.executable, "-c", _SERVE, island.ip])
    assert process.stdout is not None
    tcp, udp = process.stdout.readline().split()
    try:
        yield int(tcp), int(udp)
    finally:
        process.kill()
        process.communicate()


@contextmanager
def packets_held_to(hosts: Islands, mtu: int) -> Iterator[None]:
    """Hosts send packets of 9,000 bytes, the bridge between them passes `mtu`."""
    middle = f"{hosts.islands[0].namespace[:-2]}-0"
    for island in hosts.islands:
        configure(island.namespace, "link", "set", "eth0", "mtu", "9000", "gso_max_segs", "1")
        configure(middle, "link", "set", f"e{island.number}", "mtu", str(mtu))
    try:
        yield
    finally:
        for island in hosts.islands:
            configure(island.namespace, "link", "set", "eth0", "mtu", "1500", "gso_max_segs", "65535")
            configure(middle, "link", "set", f"e{island.number}", "mtu", "1500")


@pytest.mark.root
def test_a_link_without_faults(hosts: Islands) -> None:
    measured = measure(hosts)
    assert list(judge_links(measured)) == []
    assert measured.links[0].passed == 1500


@pytest.mark.root
def test_large_packets_vanish(hosts: Islands) -> None:
    """The finding names the size that passes and the command that sets it."""
    with packets_held_to(hosts, 1500):
        (found,) = judge_links(measure(hosts))
    assert found.level == "error"
    assert "those of 1,500 arrive; transfers stall" in found.what
    assert "ip link set dev eth0 mtu 1500" in found.fix


@pytest.mark.root
def test_a_slow_direction(hosts: Islands) -> None:
    """What the first host receives is held to 20 Mbit/s: that direction is slow, the other is not."""
    _, second = hosts.islands
    configure(second.namespace, "qdisc", "add", "dev", "eth0", "root", "tbf", "rate", "20mbit", "burst", "64k",
              "limit", "1m", tool="tc")  # fmt: skip
    try:
        link = measure(hosts).links[0]
    finally:
        configure(second.namespace, "qdisc", "del", "dev", "eth0", "root", tool="tc")
    assert link.in_mb_s is not None
    assert link.out_mb_s is not None
    assert link.in_mb_s < 5
    assert link.out_mb_s > 20


@pytest.mark.root
def test_packets_are_lost_one_way(hosts: Islands) -> None:
    """Every twentieth packet to the second host: the finding names the direction; what comes back is whole."""
    first, second = hosts.islands
    with losing(second, 0.05):
        measured = measure(hosts)
    (found,) = judge_links(measured)
    assert (found.node, found.level) == (first.ip, "warning")
    assert re.search(rf"[3-7]% of the packets to {second.ip} are lost", found.what)
    assert measured.links[0].in_resent < 0.03


@pytest.mark.root
@pytest.mark.whole
def test_a_far_host(hosts: Islands) -> None:
    """50 ms each way: no local network, and not a slow link."""
    with delayed(hosts, 0.05):
        (found,) = judge_links(measure(hosts))
    assert found.level == "warning"
    assert re.search(r"takes 1\d\d ms: no local network", found.what)


@pytest.mark.root
def test_a_cut_link(hosts: Islands) -> None:
    """The second host cannot be reached: an error with both addresses."""
    first, second = hosts.islands
    configure(first.namespace, "route", "add", "blackhole", f"{second.ip}/32")
    try:
        (found,) = judge_links(measure(hosts))
    finally:
        configure(first.namespace, "route", "del", "blackhole", f"{second.ip}/32")
    assert (found.node, found.level) == (first.ip, "error")
    assert f"cannot open a connection to {second.ip}" in found.what
