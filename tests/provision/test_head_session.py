"""The head's reports, over a recorded session: what is read of them, and why a session ended."""

import json
from collections.abc import Iterator

import pytest

from raylaunch.base.errors import ClusterError
from raylaunch.provision import head_session
from raylaunch.provision.head_session import HeadReport, HeadSession
from raylaunch.provision.host_shell import HostShell
from tests.provision.conftest import HEAD, WORKER, FakeSsh

WATCH = "docker exec -i raylaunch python3 -m raylaunch.provision.head_watch test"
REPORT = {"nodes": {HEAD: 8}, "launcher": {WORKER: "setting-up"}, "failures": {WORKER: 1}, "known": [HEAD, WORKER]}
LINE = json.dumps(REPORT) + "\n"


@pytest.fixture
def session(shell: HostShell) -> Iterator[HeadSession]:
    session = HeadSession.start(shell)
    yield session
    session.close()


@pytest.fixture
def reports(fake_ssh: FakeSsh) -> None:
    """A head that warns and reports once."""
    fake_ssh.answer(WATCH, stdout=f"FutureWarning: ...\n{LINE}", stays=True)


@pytest.mark.usefixtures("reports")
def test_a_report_is_read(session: HeadSession) -> None:
    """A library's warning is passed over."""
    assert session.read() == HeadReport({HEAD: 8}, {WORKER: "setting-up"}, {WORKER: 1}, [HEAD, WORKER])


def test_an_older_head_counts_no_failures() -> None:
    line = json.dumps({key: value for key, value in REPORT.items() if key != "failures"})
    report = HeadReport.parse(line)
    assert report is not None
    assert report.failures == {}


@pytest.mark.usefixtures("reports")
def test_a_silent_head_is_an_error(session: HeadSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """After its first report it has less time for the next."""
    monkeypatch.setattr(head_session, "_SILENCE_S", 0.2)
    session.read()
    with pytest.raises(ClusterError, match=f"the head {HEAD} cannot be reached"):
        session.read()


@pytest.mark.parametrize(
    ("stderr", "status", "message"),
    [
        ("Error response from daemon: No such container: raylaunch\n", 1, "test is not up"),
        ("client_loop: send disconnect: Broken pipe\n", 255, "cannot be reached: client_loop"),
        ("Traceback\nno Ray runs in this container\n", 1, "Ray's head does not answer: no Ray runs in this container"),
    ],
)
def test_the_end_of_a_session_is_explained(
    shell: HostShell, fake_ssh: FakeSsh, stderr: str, status: int, message: str
) -> None:
    fake_ssh.answer(WATCH, stderr=stderr, status=status, quits=True)
    with pytest.raises(ClusterError, match=message):
        HeadSession.start(shell).read()


def test_a_container_without_ray_has_no_session(shell: HostShell, fake_ssh: FakeSsh) -> None:
    fake_ssh.answer("gcs_server")
    assert HeadSession.open(shell) is None


def test_a_head_that_is_starting_is_tried_again(
    shell: HostShell, fake_ssh: FakeSsh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_session, "_PAUSE_S", 0.0)
    fake_ssh.answer("gcs_server", stdout="/proc/7/comm\n")
    fake_ssh.answer(WATCH, stderr="not yet\n", status=1, once=True, quits=True)
    fake_ssh.answer(WATCH, stdout=LINE, stays=True)
    session = HeadSession.open(shell)
    assert session is not None
    session.close()


def test_a_head_that_never_answers_is_an_error(
    shell: HostShell, fake_ssh: FakeSsh, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may serve, so nothing is taken down."""
    monkeypatch.setattr(head_session, "_PAUSE_S", 0.0)
    fake_ssh.answer("gcs_server", stdout="/proc/7/comm\n")
    fake_ssh.answer(WATCH, stderr="GCS is unavailable\n", status=1, quits=True)
    with pytest.raises(ClusterError, match="GCS is unavailable"):
        HeadSession.open(shell)
    assert sum(call.command == WATCH for call in fake_ssh.calls) == head_session._ATTEMPTS


def test_hosts_are_retried_by_name(session: HeadSession, fake_ssh: FakeSsh) -> None:
    fake_ssh.answer(WATCH)
    fake_ssh.answer("docker exec")
    session.retry([])
    session.retry([WORKER])
    commands = [command for command in fake_ssh.list_commands(HEAD) if "retry" in command]
    assert commands == [f"docker exec raylaunch python3 -m raylaunch.provision.head_watch test retry {WORKER}"]
