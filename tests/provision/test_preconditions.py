"""What `up` requires of hosts: their state from recorded output, doctor's checks, and causes of failures."""

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from raylaunch.base.errors import ChecksFailedError
from raylaunch.config.cluster_file import ClusterFile
from raylaunch.provision.host_shell import HostShell
from raylaunch.provision.preconditions import (
    ContainerState,
    HostState,
    check_hosts,
    find_cause,
    inspect_host,
    make_inspection,
    read_inspection,
)
from raylaunch.provision.ssh import CommandResult
from tests.provision.conftest import WORKER, FakeSsh

DATA = Path(__file__).resolve().parents[1] / "data"
DAEMON_DOWN = "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?\n"


@pytest.mark.parametrize(
    ("output", "state"),
    [
        ("8\ntest|true\n", HostState(8, ContainerState.OURS)),
        ("8\ntest|false\n", HostState(8, ContainerState.ENDED)),
        ("8\nother|true\n", HostState(8, ContainerState.FOREIGN)),
        ("8\n<no value>|true\n", HostState(8, ContainerState.FOREIGN)),
        ("0\n\naddresses 10.0.0.2 fe80::1 ", HostState(0, ContainerState.NONE, frozenset({"10.0.0.2", "fe80::1"}))),
        ("2\nGPU 0: NVIDIA L4 (UUID: GPU-1)\nGPU 1: NVIDIA L4 (UUID: GPU-2)\n", HostState(2, ContainerState.NONE)),
        ("0\n", HostState(0, ContainerState.NONE)),
        ("", HostState(0, ContainerState.NONE)),
    ],
)
def test_state_of_a_host(cluster: ClusterFile, output: str, state: HostState) -> None:
    assert read_inspection(CommandResult(0, output), cluster) == state


def test_a_host_without_ssh_is_unreachable(shell: HostShell, fake_ssh: FakeSsh) -> None:
    fake_ssh.answer("nvidia-smi", stderr="Connection refused", status=255)
    assert inspect_host(shell, WORKER) == HostState(0, ContainerState.UNREACHABLE)


def test_inspection_counts_gpus_and_reads_the_label(
    cluster: ClusterFile, add_program: Callable[[str, str], None]
) -> None:
    """The command, run by a shell, with programs that print as nvidia-smi and docker do."""
    add_program("nvidia-smi", "echo 'GPU 0: NVIDIA L4 (UUID: GPU-1)'; echo 'GPU 1: NVIDIA L4 (UUID: GPU-2)'")
    add_program("docker", 'printf "%s\\n" "$*" >&2; [ "$6" = raylaunch ] && echo "test|true"')
    done = subprocess.run(["sh", "-c", make_inspection(cluster)], capture_output=True, text=True, check=True)
    state = read_inspection(CommandResult(0, done.stdout), cluster)
    assert (state.gpus, state.container, "127.0.0.1" in state.addresses) == (2, ContainerState.OURS, True)
    add_program("nvidia-smi", "exit 127")
    add_program("docker", "exit 1")
    done = subprocess.run(["sh", "-c", make_inspection(cluster)], capture_output=True, text=True, check=True)
    state = read_inspection(CommandResult(0, done.stdout), cluster)
    assert (state.gpus, state.container) == (0, ContainerState.NONE)


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ("--gpus all", 8),
        ("--gpus 4", 4),
        ("--gpus '\"device=2,3\"'", 2),
        ("--gpus device=GPU-7", 1),
        ("--device nvidia.com/gpu=all", 8),
        ("--device nvidia.com/gpu=0 --device nvidia.com/gpu=GPU-3", 2),
        ("--runtime=nvidia -e NVIDIA_VISIBLE_DEVICES=4,5,6", 3),
        ("--gpus all -e CUDA_VISIBLE_DEVICES=0,1", 2),
        ("--gpus $MY_GPUS", 1),
        ("", 0),
    ],
)
def test_a_host_joins_with_the_gpus_that_its_container_is_given(cluster: ClusterFile, options: str, count: int) -> None:
    """Of eight; with one at least where only the host's shell knows."""
    listed = "".join(f"GPU {i}: NVIDIA L4 (UUID: GPU-{i})\n" for i in range(8))
    other = replace(cluster, run_options=(options,))
    assert read_inspection(CommandResult(0, f"8\ntest|true\n{listed}"), other, WORKER).gpus == count


@pytest.fixture
def shell_with_key(cluster: ClusterFile, fake_ssh: FakeSsh, tmp_path: Path) -> HostShell:
    """The cluster's hosts, with a key that ssh can read."""
    assert fake_ssh.calls == []
    path = tmp_path / "id"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return HostShell.of(replace(cluster, ssh_private_key=path))


def test_hosts_that_fail_a_check_stop_up(
    shell_with_key: HostShell, fake_ssh: FakeSsh, capsys: pytest.CaptureFixture[str]
) -> None:
    """Doctor on a recorded host: its table, each problem with its fix."""
    fake_ssh.answer("bash -s", probe=str(DATA / "hosts" / "probe-stopped.txt"))
    fake_ssh.answer("true")
    with pytest.raises(ChecksFailedError, match=r"\d+ checks of test's hosts failed; nothing was changed"):
        check_hosts(shell_with_key, with_archive=False)
    printed = capsys.readouterr().err
    assert "failed: docker on all 2\n    docker is installed, but its daemon is not running\n    to do: " in printed
    assert "systemctl enable --now docker\n" in printed
    assert "not checked: image" not in printed


def test_a_missing_image_is_fine_with_an_archive(
    shell_with_key: HostShell, fake_ssh: FakeSsh, capsys: pytest.CaptureFixture[str]
) -> None:
    """As is a container of an earlier run, which `up` removes."""
    fake_ssh.answer("bash -s", probe=str(DATA / "hosts" / "probe-busy.txt"))
    fake_ssh.answer("nvidia-smi", stdout="8\ntest|false\n")
    fake_ssh.answer("true")
    with pytest.raises(ChecksFailedError):
        check_hosts(shell_with_key, with_archive=True)
    printed = capsys.readouterr().err
    assert ": image on" not in printed
    assert ": container on" not in printed
    assert ": GPU memory on all 2\n    held by other programs" in printed


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        ({"status": 0}, "the image or the environment has no Ray"),
        ({"status": 255, "stderr": "Connection refused"}, "the image or the environment has no Ray"),
        ({"status": 1, "stderr": DAEMON_DOWN}, "the docker daemon is not running"),
    ],
)
def test_the_daemons_own_error_comes_first(
    shell: HostShell, fake_ssh: FakeSsh, answer: dict[str, object], cause: str
) -> None:
    """What it answers now, else what the launcher's log holds; the excerpt is the log's."""
    fake_ssh.answer("docker version", **answer)  # type: ignore[arg-type]
    log = "bash: EOF\nModuleNotFoundError: No module named 'ray'\nNew status: update-failed\n"
    failure = find_cause(shell, WORKER, log)
    assert failure.what == cause
    assert failure.excerpt[-1].startswith("ModuleNotFoundError")
