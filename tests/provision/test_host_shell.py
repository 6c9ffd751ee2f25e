"""Commands on hosts: what ssh is called with, and what its answers mean."""

import socket
import time
from pathlib import Path

import pytest

from raylaunch.base.errors import ClusterError
from raylaunch.base.processes import wait_until
from raylaunch.provision import host_shell
from raylaunch.provision.host_shell import HostShell
from tests.provision.conftest import HEAD, WORKER, FakeSsh

REFUSED = "ssh: connect to host 10.0.0.1 port 22: Connection refused\n"
OPTIONS = (
    "BatchMode=yes", "LogLevel=ERROR", "StrictHostKeyChecking=yes",
    "UserKnownHostsFile=/home/mia/.ssh/known_hosts /home/mia/.ssh/known_hosts2",
    "ConnectTimeout=6", "ServerAliveInterval=5", "ServerAliveCountMax=3",
)  # fmt: skip


def test_a_command_reaches_the_host_with_its_stdin(shell: HostShell, fake_ssh: FakeSsh) -> None:
    fake_ssh.answer("uptime", stdout="up\n", stderr="warned\n", status=3)
    result = shell.run(WORKER, "uptime", stdin="secret")
    assert (result.status, result.stdout, result.stderr, result.unreachable) == (3, "up\n", "warned\n", False)
    [call] = fake_ssh.calls
    options = [*OPTIONS, "ClearAllForwardings=yes", "IdentitiesOnly=yes"]
    words = [word for option in options for word in ("-o", option)]
    assert call.argv == ["ssh", "-T", "-i", "/keys/id", *words, "--", f"mia@{WORKER}", "uptime"]
    assert call.stdin == "secret"


def test_a_file_is_sent_as_stdin(shell: HostShell, fake_ssh: FakeSsh, tmp_path: Path) -> None:
    fake_ssh.answer("docker load")
    (tmp_path / "image.tar").write_bytes(b"layers" * 100_000)
    assert shell.run(HEAD, "docker load", stdin=tmp_path / "image.tar").status == 0
    assert fake_ssh.calls[0].stdin == "layers" * 100_000


def test_a_host_that_takes_too_long_is_unreachable(shell: HostShell, fake_ssh: FakeSsh) -> None:
    fake_ssh.answer("uptime", sleep_s=60)
    result = shell.run(WORKER, "uptime", timeout_s=0.5)
    assert result.unreachable
    assert (result.failure.kind, result.failure.message) == ("slow", "no answer within 0 s")


def test_commands_run_in_the_heads_container(shell: HostShell, fake_ssh: FakeSsh) -> None:
    """Quoted for the shell there; with -i where stdin is sent."""
    fake_ssh.answer("docker exec", stdout="done")
    assert shell.run_in_head(["sh", "-c", 'echo "$HOME"']).stdout == "done"
    shell.run_in_head(["cat"], stdin="text")
    assert fake_ssh.list_commands(HEAD) == [
        "docker exec raylaunch sh -c 'echo \"$HOME\"'",
        "docker exec -i raylaunch cat",
    ]


@pytest.mark.parametrize(
    ("stderr", "status", "message"),
    [
        (REFUSED, 255, f"the head {HEAD} cannot be reached: ssh: connect to host 10.0.0.1 port 22: Connection refused"),
        (
            "Error response from daemon: No such container: raylaunch\n",
            1,
            "test is not up: no container raylaunch",
        ),
        (
            "Error response from daemon: Container f00 is not running\n",
            1,
            "test is not up: no container raylaunch",
        ),
    ],
)
def test_a_head_without_a_cluster_is_an_error(
    shell: HostShell, fake_ssh: FakeSsh, stderr: str, status: int, message: str
) -> None:
    fake_ssh.answer("docker exec", stderr=stderr, status=status)
    with pytest.raises(ClusterError, match=message) as caught:
        shell.run_in_head(["true"])
    assert caught.value.fix.endswith("cluster.yaml`")


def test_a_failed_command_is_not_an_error_of_the_head(shell: HostShell, fake_ssh: FakeSsh) -> None:
    fake_ssh.answer("docker exec", stderr="cat: x: No such file or directory", status=1)
    assert shell.run_in_head(["cat", "x"]).status == 1


def test_all_hosts_or_some_are_asked(shell: HostShell) -> None:
    assert shell.run_on_all(str.upper) == {HEAD: HEAD, WORKER: WORKER}
    assert shell.run_on_all(len, [WORKER]) == {WORKER: 8}
    assert shell.run_on_all(len, []) == {}


def test_a_started_program_ends_with_its_stdin(shell: HostShell, fake_ssh: FakeSsh) -> None:
    """Its lines come one by one; closing returns status and stderr."""
    fake_ssh.answer("docker exec -i raylaunch top", stdout="one\ntwo\n", stderr="bye", status=7, stays=True)
    process = shell.start_in_head(["top"])
    assert process.read_line(20) == "one\n"
    assert process.read_newest_line(20) == "two\n"
    with pytest.raises(TimeoutError):
        process.read_line(0.1)
    closed = process.close(grace_s=20)
    assert (closed.status, closed.stderr) == (7, "bye")
    assert process.close() == closed
    assert process.read_line(20) is None
    assert [*process.read_lines()] == []


def test_a_program_that_ignores_its_stdin_is_stopped(shell: HostShell, fake_ssh: FakeSsh) -> None:
    fake_ssh.answer("docker exec", sleep_s=600, stays=True)
    process = shell.start_in_head(["top"])
    assert wait_until(lambda: bool(fake_ssh.calls), 20)
    began = time.monotonic()
    assert process.close(grace_s=0.1).status == -15
    assert time.monotonic() - began < 60


def test_a_tunnel_leads_to_the_heads_loopback(shell: HostShell, fake_ssh: FakeSsh) -> None:
    """`ssh -N` with the forward and no command; gone after the block."""
    fake_ssh.answer("forward")
    with shell.tunnel(8265) as port:
        socket.create_connection(("127.0.0.1", port), timeout=20).close()
    [call] = fake_ssh.calls
    assert call.argv[1] == "-N"
    assert call.argv[-2:] == ["--", f"mia@{HEAD}"]
    assert f"LocalForward=127.0.0.1:{port} 127.0.0.1:8265" in call.argv
    assert "ExitOnForwardFailure=yes" in call.argv
    assert "ClearAllForwardings=yes" not in call.argv
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=20)


def test_a_tunnel_that_fails_reports_ssh(shell: HostShell, fake_ssh: FakeSsh) -> None:
    fake_ssh.answer("forward", stderr=REFUSED, status=255)
    with pytest.raises(ClusterError, match="cannot be reached: ssh: connect to host"), shell.tunnel(8265):
        pass


def test_hosts_that_fail_twice_are_lost(shell: HostShell, fake_ssh: FakeSsh, monkeypatch: pytest.MonkeyPatch) -> None:
    """One failure is not enough; a host that answers again is no longer lost."""
    monkeypatch.setattr(host_shell, "_PING_PAUSE_S", 0.05)
    fake_ssh.answer("true", host=HEAD, stderr=REFUSED, status=255, once=True)
    for _ in range(3):
        fake_ssh.answer("true", host=WORKER, stderr=REFUSED, status=255, once=True)
    fake_ssh.answer("true")
    seen: set[str] = set()
    with shell.watch_reachability() as lost:
        assert wait_until(lambda: WORKER in lost, 60)
        seen |= {*lost}
        assert lost.get(WORKER, REFUSED).endswith("Connection refused") or lost == {}
        assert wait_until(lambda: not lost, 60)
    assert HEAD not in seen
