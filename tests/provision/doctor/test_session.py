"""A probe's session: the real script on this machine, and logins that fail, through the ssh of conftest."""

import socket
from dataclasses import replace
from pathlib import Path

import pytest

from raylaunch.config.cluster_file import ClusterFile
from raylaunch.provision.doctor import gather, session
from raylaunch.provision.doctor.session import ProbeSession, connect
from raylaunch.provision.ssh import Ssh, SshFailure
from tests.provision.conftest import HEAD, WORKER, FakeSsh

ARGUMENTS = ("raylaunch", "raylaunch:0.32.0", "127.0.0.1", "/data", "docker")
DATA = Path(__file__).resolve().parents[2] / "data" / "hosts"


@pytest.fixture
def ssh(fake_ssh: FakeSsh, tmp_path: Path) -> Ssh:
    assert fake_ssh.calls == []
    return Ssh("mia", None, None, tmp_path)


def test_the_probe_runs_here(ssh: Ssh, fake_ssh: FakeSsh) -> None:
    """All its sections come; then ports are held, and connected to, until the session is closed."""
    fake_ssh.answer("bash -s", here=True)
    found = connect(ssh, HEAD, ARGUMENTS)
    assert isinstance(found, ProbeSession)
    assert {"shell", "name", "docker", "objects", "gpus", "disk", "system", "memory", "sockets"} <= {
        *found.probe.sections
    }
    assert found.python.endswith("python3")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    listening = found.listen("127.0.0.1", [port])
    assert listening is not None
    assert (listening.free, listening.taken) == ({port}, frozenset())
    reach = found.connect_to([("127.0.0.1", port), ("no-such-host.invalid", 22)], 5.0)
    assert reach is not None
    assert reach.results == ("open", "unreachable")
    found.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=20)


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        ({"stderr": "ssh: connect to host 10.0.0.1 port 22: Connection refused\n", "status": 255}, "refused"),
        ({"stderr": "This account is not available.\n", "status": 1}, "shell"),
        ({"stdout": "Welcome\n", "status": 3}, "shell"),
    ],
)
def test_a_login_that_ends_is_explained(ssh: Ssh, fake_ssh: FakeSsh, answer: dict[str, object], failure: str) -> None:
    fake_ssh.answer("bash -s", quits=True, **answer)  # type: ignore[arg-type]
    found = connect(ssh, HEAD, ARGUMENTS)
    assert isinstance(found, SshFailure)
    assert found.kind == failure


def test_a_login_that_hangs_is_slow(ssh: Ssh, fake_ssh: FakeSsh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "_FACTS_DEADLINE_S", 0.5)
    fake_ssh.answer("bash -s", sleep_s=60, quits=True)
    assert connect(ssh, HEAD, ARGUMENTS) == SshFailure("slow", "no answer within 0 s")


def test_facts_of_a_cluster(cluster: ClusterFile, fake_ssh: FakeSsh) -> None:
    """One host answers with a recorded probe, one refuses the key; nothing is left open."""
    fake_ssh.answer("bash -s", host=HEAD, probe=str(DATA / "probe-busy.txt"))
    fake_ssh.answer(
        "bash -s", host=WORKER, stderr="mia@10.0.0.2: Permission denied (publickey).", status=255, quits=True
    )
    facts = gather.gather(replace(cluster, ssh_private_key=None))
    assert [(host.address, host.system.hostname, host.network) for host in facts.hosts] == [(HEAD, "h2", None)]
    assert {host: failure.kind for host, failure in facts.failures.items()} == {WORKER: "key"}
    assert facts.from_head == {}
