"""`raylaunch up`, step by step: what it does with recorded reports, logs and states of hosts."""

import json
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from raylaunch.base.addresses import find_addresses
from raylaunch.base.errors import ClusterError
from raylaunch.base.processes import Child
from raylaunch.provision import artifacts, up
from raylaunch.provision.head_session import HeadReport, HeadSession
from raylaunch.provision.host_shell import HostShell
from raylaunch.provision.preconditions import ContainerState, HostState
from raylaunch.provision.ray_up import Launcher
from raylaunch.provision.up import ClusterUp
from tests.provision.conftest import HEAD, WORKER, FakeSsh

RECORDED = (Path(__file__).parents[1] / "data" / "launcher" / "head-start-failed.log").read_text()
WATCH = "docker exec -i raylaunch python3 -m raylaunch.provision.head_watch test"
RETRY = f"docker exec raylaunch python3 -m raylaunch.provision.head_watch test retry {WORKER}"
REMOVE = "docker rm -f raylaunch"
Start = Callable[[str, str], Launcher]


def make_report(nodes: dict[str, int], launcher: str = "setting-up", failures: int = 0) -> HeadReport:
    """A report with the worker's state in Ray's launcher."""
    return HeadReport(nodes, {WORKER: launcher}, {WORKER: failures}, [HEAD, WORKER])


@pytest.fixture
def run(shell: HostShell) -> ClusterUp:
    """An `up` of two hosts with 8 GPUs each."""
    return ClusterUp(shell, wait_s=1800, gpus={HEAD: 8, WORKER: 8})


@pytest.fixture
def session(shell: HostShell, fake_ssh: FakeSsh) -> Iterator[HeadSession]:
    fake_ssh.answer(WATCH, stays=True)
    session = HeadSession.start(shell)
    yield session
    session.close()


@pytest.fixture
def start(run: ClusterUp, tmp_path: Path) -> Start:
    """Start a process in the place of Ray's launcher: a shell script, with the log that it has written."""

    def make(script: str, log: str) -> Launcher:
        (tmp_path / "up.log").write_text(log)
        with (tmp_path / "output").open("wb") as output:
            child = Child.start(["sh", "-c", script], environment={}, output=output, stdin=subprocess.PIPE)
        return Launcher(run.cluster, child, tmp_path / "up.log")

    return make


@pytest.mark.parametrize(
    ("nodes", "missing"),
    [({HEAD: 8, WORKER: 8}, []), ({HEAD: 8}, [WORKER]), ({HEAD: 8, WORKER: 7}, [WORKER]), ({}, [HEAD, WORKER])],
)
def test_a_host_is_missing_until_all_its_gpus_joined(run: ClusterUp, nodes: dict[str, int], missing: list[str]) -> None:
    assert run.list_missing(make_report(nodes)) == missing


def test_hosts_by_name_are_in_by_their_address(run: ClusterUp, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray lists numbers: those that a name resolves to here, or those of the host's own interfaces."""
    names = {"gpu-a.lab": "10.0.0.1", "gpu-b": "10.9.9.9"}
    look_up = lambda name, *_, **__: [(0, 0, 0, "", (names[name], 0))]  # noqa: E731
    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    cluster = replace(run.cluster, head_ip="gpu-a.lab", worker_ips=("gpu-b",))
    own = {"gpu-a.lab": frozenset({"172.17.0.1"}), "gpu-b": frozenset({"172.17.0.1", "192.168.5.2"})}
    named = ClusterUp(replace(run.shell, cluster=cluster), 1800.0, gpus={"gpu-a.lab": 8, "gpu-b": 8})
    named.addresses = find_addresses(own)
    assert named.list_missing(make_report({"10.0.0.1": 8, "192.168.5.2": 8})) == []
    assert named.list_missing(make_report({"10.0.0.1": 8, "172.17.0.1": 8})) == ["gpu-b"]
    assert named.describe_host("gpu-a.lab", make_report({"10.0.0.1": 8})).state == "head: joined, 8 of 8 GPUs"
    named.addresses.clear()
    assert named.list_missing(make_report({"10.0.0.1": 8, "10.9.9.9": 8})) == []


def test_a_host_without_gpus_joins_with_none(run: ClusterUp) -> None:
    run.gpus[WORKER] = 0
    assert run.list_missing(make_report({HEAD: 8, WORKER: 0})) == []
    assert run.list_missing(make_report({HEAD: 8})) == [WORKER]


def test_progress_and_result_name_hosts_and_gpus(run: ClusterUp) -> None:
    assert run.describe() == f"2 hosts, 16 GPUs: {HEAD} (8), {WORKER} (8)"
    report = make_report({HEAD: 8})
    assert str(run.describe_host(HEAD, report)) == f"{HEAD}: head: joined, 8 of 8 GPUs | 0 s of at most 1800 s"
    assert run.describe_host(WORKER, report).state == "worker: image, container, Ray"
    unknown = HeadReport({}, {}, {}, [])
    assert run.describe_host(WORKER, unknown).state == "worker: waiting for the head to start it"


def test_a_container_of_another_owner_is_left_alone(run: ClusterUp, fake_ssh: FakeSsh) -> None:
    states = {HEAD: HostState(8, ContainerState.NONE), WORKER: HostState(8, ContainerState.FOREIGN)}
    with pytest.raises(ClusterError, match=f"{WORKER}: has a container named raylaunch") as caught:
        run.clear(states)
    assert REMOVE in caught.value.fix
    assert fake_ssh.calls == []


def test_containers_of_an_earlier_run_are_removed(run: ClusterUp, fake_ssh: FakeSsh) -> None:
    """With Ray's state on this machine; on no other host."""
    fake_ssh.answer(REMOVE)
    folder = artifacts.ray_folder_of(run.cluster)
    folder.mkdir(parents=True)
    run.clear({HEAD: HostState(8, ContainerState.NONE), WORKER: HostState(8, ContainerState.ENDED)})
    assert [(call.host, call.command) for call in fake_ssh.calls] == [(WORKER, REMOVE)]
    assert not folder.exists()


def test_a_host_that_the_head_does_not_know_is_an_error(run: ClusterUp, fake_ssh: FakeSsh, shell: HostShell) -> None:
    fake_ssh.answer(WATCH, stdout=f'{{"nodes": {{}}, "launcher": {{}}, "known": ["{HEAD}"]}}\n', stays=True)
    session = HeadSession.start(shell)
    with pytest.raises(ClusterError, match=f"{WORKER}: added to .* after the head was started"):
        run.add([WORKER], session)
    session.close()


def test_a_missing_host_is_added_to_a_running_head(
    run: ClusterUp, fake_ssh: FakeSsh, shell: HostShell, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its old failures do not count; its ended container is removed first."""
    report = {"nodes": {HEAD: 8}, "launcher": {}, "failures": {WORKER: 2}, "known": [HEAD, WORKER]}
    fake_ssh.answer(WATCH, stdout=json.dumps(report) + "\n", stays=True)
    fake_ssh.answer("nvidia-smi", stdout="8\ntest|false\n")
    fake_ssh.answer(REMOVE)
    fake_ssh.answer(RETRY)
    session = HeadSession.start(shell)
    run.add([WORKER], session)
    session.close()
    assert run.failures == {WORKER: 2}
    assert [call.command for call in fake_ssh.calls if call.command in (REMOVE, RETRY)] == [REMOVE, RETRY]
    assert f"{HEAD} stay as they are; adding {WORKER}" in capsys.readouterr().err


def test_fewer_gpus_in_the_container_is_an_error(run: ClusterUp, session: HeadSession) -> None:
    with pytest.raises(ClusterError, match=f"{WORKER} has 8 GPUs, but Ray in its container found 7") as caught:
        run.examine(WORKER, make_report({HEAD: 8, WORKER: 7}), session)
    assert "docker exec raylaunch nvidia-smi -L" in caught.value.fix


def test_a_host_that_is_never_started_is_an_error(
    run: ClusterUp, session: HeadSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Time counts from when the launcher last worked on it."""
    idle = make_report({HEAD: 8}, "uninitialized")
    run.examine(WORKER, idle, session)
    run.examine(WORKER, make_report({HEAD: 8}), session)
    assert run.idle_since == {}
    run.examine(WORKER, idle, session)
    monkeypatch.setattr(up, "_BEGIN_S", -1.0)
    with pytest.raises(ClusterError, match=f"{WORKER}: Ray's launcher on the head did not start it"):
        run.examine(WORKER, idle, session)


def test_a_host_is_retried_once(
    run: ClusterUp, session: HeadSession, fake_ssh: FakeSsh, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its second failure is an error with the cause in the launcher's log."""
    fake_ssh.answer("docker version")
    fake_ssh.answer("monitor.out", stdout="docker: no space left on device\nNew status: update-failed\n")
    fake_ssh.answer("nvidia-smi", stdout="8\ntest|true\n")
    fake_ssh.answer(RETRY)
    fake_ssh.answer("true")
    run.examine(WORKER, make_report({HEAD: 8}, failures=1), session)
    assert f"{WORKER} failed: a disk is full; retrying once" in capsys.readouterr().err
    assert RETRY in fake_ssh.list_commands(HEAD)
    run.examine(WORKER, make_report({HEAD: 8}, failures=1), session)
    with pytest.raises(ClusterError, match=f"{WORKER} failed twice: a disk is full") as caught:
        run.examine(WORKER, make_report({HEAD: 8}, failures=2), session)
    assert "docker: no space left on device" in caught.value.excerpt
    assert REMOVE not in fake_ssh.list_commands()


def test_a_host_that_failed_and_is_gone_is_reported_as_gone(
    run: ClusterUp, session: HeadSession, fake_ssh: FakeSsh
) -> None:
    fake_ssh.answer("docker version", stderr="No route to host", status=255)
    fake_ssh.answer("monitor.out", stdout="SSH command failed.\n")
    fake_ssh.answer("true", host=WORKER, stderr="ssh: connect to host: No route to host", status=255)
    run.failed.add(WORKER)
    with pytest.raises(ClusterError, match=f"{WORKER} no longer answers to ssh: ssh: connect to host: No route"):
        run.examine(WORKER, make_report({HEAD: 8}, failures=1), session)


def test_the_heads_failure_has_the_cause_of_its_log(run: ClusterUp, start: Start) -> None:
    with pytest.raises(ClusterError, match=f"{HEAD}: the head could not be set up: .*JSONDecodeError") as caught:
        run.follow_head(start("exit 1", RECORDED))
    assert caught.value.log is not None
    assert "Failed to load {GPU:2}" in caught.value.excerpt


def test_the_heads_launcher_that_succeeds_is_followed_to_its_end(
    run: ClusterUp, start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    run.follow_head(start("sleep 0.2", "[7/7] Starting the Ray runtime\n"))
    assert f"{HEAD}: head: starting Ray | " in capsys.readouterr().err


def test_a_head_that_takes_too_long_is_an_error(run: ClusterUp, start: Start) -> None:
    """With the step it is at."""
    run.wait_s = 0.0
    launcher = start("sleep 600", "[4/7]\n")
    with pytest.raises(ClusterError, match="was not up within 0 s, at: preparing the image"):
        run.follow_head(launcher)
    launcher.process.popen.kill()
    launcher.process.popen.wait()


def test_waiting_ends_with_the_last_gpu(run: ClusterUp, fake_ssh: FakeSsh, shell: HostShell) -> None:
    """From recorded reports; or with an error when the time is over."""
    first = f'{{"nodes": {{"{HEAD}": 8}}, "launcher": {{"{WORKER}": "setting-up"}}, "known": []}}'
    last = f'{{"nodes": {{"{HEAD}": 8, "{WORKER}": 8}}, "launcher": {{}}, "known": []}}'
    fake_ssh.answer(WATCH, stdout=f"{first}\n{last}\n", stays=True, once=True)
    session = HeadSession.start(shell)
    run.wait(session)
    session.close()
    fake_ssh.answer(WATCH, stdout=f"{first}\n", stays=True)
    session = HeadSession.start(shell)
    run.wait_s = 0.0
    with pytest.raises(ClusterError, match=f"{WORKER} did not join within 0 s; Ray has 8 of 16 GPUs"):
        run.wait(session)
    session.close()
