"""The check over two hosts in network namespaces, with real Ray and Gloo. Needs root."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from benchmarks.islands import Island, Islands, islands
from tests.preflight.network.link_faults import hosts_file, interface, only_open_ports

pytestmark = [pytest.mark.root, pytest.mark.ray]
DEADLINE_S = 120


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Islands]:
    """Two hosts with a Ray node each."""
    with islands(2, tmp_path_factory.mktemp("data"), data_mib=16) as made:
        yield made


def start_check(hosts: Islands, *environment: str, import_s: float = 60) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tests.preflight.network.check_hosts", str(import_s), *environment]
    return hosts.run(hosts.islands[0], command, RAYLAUNCH_HOME=str(hosts.data))


def read_report(process: "subprocess.Popen[str]") -> dict[str, Any]:
    text, _ = process.communicate(timeout=DEADLINE_S)
    line = next((line for line in text.splitlines() if line.startswith("REPORT ")), None)
    assert line is not None, text
    report: dict[str, Any] = json.loads(line.removeprefix("REPORT "))
    return report


def test_two_hosts_that_reach_each_other(hosts: Islands) -> None:
    """The link is measured, Gloo passes over the right interface, and NCCL is reported as not proved."""
    report = read_report(start_check(hosts, "GLOO_SOCKET_IFNAME=eth0"))
    assert report["findings"] == []
    assert report["links"][0]["out_mb_s"] > 0
    assert report["proved"] == ["Gloo over 2 ranks"]
    assert "NCCL" in report["not_proved"][0]


def test_an_interface_that_does_not_exist(hosts: Islands) -> None:
    """Named with the exact variable to set, before any collective is tried."""
    report = read_report(start_check(hosts, "NCCL_SOCKET_IFNAME=eth7"))
    assert {finding["node"] for finding in report["findings"]} == {island.ip for island in hosts.islands}
    for finding in report["findings"]:
        assert "NCCL_SOCKET_IFNAME=eth7 names no interface" in finding["what"]
        assert "NCCL_SOCKET_IFNAME=eth0" in finding["fix"]
    assert report["proved"] == []


def test_gloo_on_loopback(hosts: Islands) -> None:
    """Each rank binds to 127.0.0.1: each host is named, with the interface to set."""
    report = read_report(start_check(hosts, "GLOO_SOCKET_IFNAME=lo"))
    assert [(finding["node"], finding["fix"]) for finding in report["findings"]] == [
        (island.ip, f"start Ray on {island.ip} with GLOO_SOCKET_IFNAME=eth0") for island in hosts.islands
    ]
    assert "Gloo binds to loopback there" in report["findings"][0]["what"]


def test_a_stopped_rank_is_named(hosts: Islands) -> None:
    """The second host's child is stopped: the finding names its rank and node, within the deadline."""
    done = threading.Event()
    stopper = threading.Thread(target=stop_child, args=(hosts.islands[1], done))
    stopper.start()
    try:
        report = read_report(start_check(hosts, "GLOO_SOCKET_IFNAME=eth0", import_s=15))
    finally:
        done.set()
        stopper.join()
    assert len(report["findings"]) == 1, report["findings"]
    (finding,) = report["findings"]
    assert finding["node"] == hosts.islands[1].ip
    assert f"rank 1 ({hosts.islands[1].ip})" in finding["what"]


@pytest.mark.whole
@pytest.mark.parametrize("closed", [0, 1])
def test_a_firewall_that_lets_only_ray_pass(hosts: Islands, closed: int) -> None:
    """Ray's ports are open on both, all others closed on one: named with the direction, whichever it is."""
    target, other = hosts.islands[closed], hosts.islands[1 - closed]
    with only_open_ports(target):
        report = read_report(start_check(hosts, "GLOO_SOCKET_IFNAME=eth0"))
    (finding,) = report["findings"]
    assert (finding["node"], finding["level"]) == (other.ip, "error")
    assert f"cannot open a connection to {target.ip}: timed out" in finding["what"]
    assert f"ip route get {target.ip}" in finding["fix"]


@pytest.mark.whole
@pytest.mark.parametrize(
    ("entry", "why"),
    [("127.0.1.1 {name}", "is 127.0.1.1 in /etc/hosts"), ("", "resolves to nothing")],
    ids=["debian", "unknown"],
)
def test_a_hostname_that_is_loopback(hosts: Islands, tmp_path: Path, entry: str, why: str) -> None:
    """Debian's default: each host is named, with its interface."""
    text = f"127.0.0.1 localhost\n{entry.format(name=socket.gethostname())}\n"
    with ExitStack() as stack:
        for island in hosts.islands:
            stack.enter_context(hosts_file(island, text, tmp_path))
        report = read_report(start_check(hosts))
    found = [(finding["node"], finding["fix"]) for finding in report["findings"]]
    assert found == [(one.ip, f"start Ray on {one.ip} with GLOO_SOCKET_IFNAME=eth0") for one in hosts.islands]
    assert why in report["findings"][0]["what"]


@pytest.mark.whole
@pytest.mark.parametrize("variable", ["GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"])
def test_a_bridge_with_one_address_on_both(hosts: Islands, variable: str) -> None:
    """docker0 is named for what it is before anything is tried."""
    with ExitStack() as stack:
        for island in hosts.islands:
            stack.enter_context(interface(island, "docker0", "172.17.0.1/16"))
        report = read_report(start_check(hosts, f"{variable}=docker0"))
    assert [finding["fix"] for finding in report["findings"]] == [
        f"start Ray on {island.ip} with {variable}=eth0" for island in hosts.islands
    ]
    assert report["proved"] == []


@pytest.mark.whole
@pytest.mark.parametrize("address", ["10.55.0.{number}/24", "fe80::{number}/64"], ids=["another-net", "link-local"])
def test_an_interface_that_leads_elsewhere(hosts: Islands, address: str) -> None:
    """A name that both hosts have, on a network that does not join them: the fix names both."""
    with ExitStack() as stack:
        for island in hosts.islands:
            stack.enter_context(interface(island, "eth1", address.format(number=island.number)))
        report = read_report(start_check(hosts, "GLOO_SOCKET_IFNAME=eth1"))
    (finding,) = report["findings"]
    assert finding["level"] == "error"
    for island in hosts.islands:
        assert f"start Ray on {island.ip} with GLOO_SOCKET_IFNAME=eth0" in finding["fix"]


@pytest.mark.whole
def test_bridges_and_a_second_interface_do_no_harm(hosts: Islands) -> None:
    """docker0 on both hosts, and one host twice in the subnet: no finding."""
    with ExitStack() as stack:
        for island in hosts.islands:
            stack.enter_context(interface(island, "docker0", "172.17.0.1/16"))
        stack.enter_context(interface(hosts.islands[0], "eth1", "10.91.7.77/24"))
        report = read_report(start_check(hosts, "GLOO_SOCKET_IFNAME=eth0"))
    assert report["findings"] == []
    assert report["proved"] == ["Gloo over 2 ranks"]


@pytest.mark.whole
def test_a_host_that_dies_during_the_check(hosts: Islands) -> None:
    """All its processes are killed while they import PyTorch: its rank and node are named."""
    second, done = hosts.islands[1], threading.Event()
    killer = threading.Thread(target=stop_child, args=(second, done), kwargs={"act": lambda _: hosts.kill_ray(second)})
    killer.start()
    try:
        report = read_report(start_check(hosts, "GLOO_SOCKET_IFNAME=eth0"))
    finally:
        done.set()
        killer.join()
        hosts.start_ray(second)
        hosts.wait_alive(2)
    assert {finding["node"] for finding in report["findings"]} == {second.ip}, report["findings"]
    assert "has died" in report["findings"][0]["what"]


def stop_process(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)


def stop_child(island: Island, done: threading.Event, act: Callable[[int], None] = stop_process) -> None:
    """Stop the island's first collectives' child, wherever it is in its work."""
    while not done.is_set():
        for pid in island.list_pids():
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:
                continue
            if b"collectives: a program of its own" in command:
                act(pid)
                return
        time.sleep(0.05)
