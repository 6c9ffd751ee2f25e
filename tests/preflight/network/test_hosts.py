"""The check over two hosts in network namespaces, with real Ray and Gloo. Needs root."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.islands import Island, Islands, islands

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
    """Each rank binds to 127.0.0.1: the finding names the interface to set."""
    report = read_report(start_check(hosts, "GLOO_SOCKET_IFNAME=lo"))
    (finding,) = report["findings"]
    assert finding["level"] == "error"
    assert "loopback" in finding["what"]
    assert "GLOO_SOCKET_IFNAME=eth0" in finding["fix"]


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


def stop_child(island: Island, done: threading.Event) -> None:
    """Stop the island's first collectives' child, wherever it is in its work."""
    while not done.is_set():
        for pid in island.list_pids():
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:
                continue
            if b"collectives: a program of its own" in command:
                os.kill(pid, signal.SIGSTOP)
                return
        time.sleep(0.05)
