"""`raylaunch down`: the script that cleans a host, run by a shell, and what its output means."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from raylaunch.base.errors import ClusterError
from raylaunch.cli import main
from raylaunch.config.cluster_file import ClusterFile
from raylaunch.provision import artifacts, down
from raylaunch.provision.down import Remains
from raylaunch.provision.ssh import CommandResult
from tests.provision.conftest import HEAD, WORKER, FakeSsh

Add = Callable[[str, str], None]
DOCKER = """\
echo "$*" >>{log}
case "$1" in
ps) cat {ids} 2>/dev/null; exit 0 ;;
rm) rm -f {ids} ;;
volume) case "$2" in
    inspect) cat {volumes} 2>/dev/null; exit 1 ;;
    rm) rm {volumes} ;;
    esac ;;
esac"""
LIST = "ps --all --quiet --no-trunc --filter label=raylaunch.cluster=test"


@pytest.fixture
def mounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of Ray's mounts on the host."""
    monkeypatch.setattr(down, "_MOUNTS", str(tmp_path / "mounts"))
    return tmp_path / "mounts"


def run(cluster: ClusterFile, *, clean: bool) -> Remains:
    done = subprocess.run(
        ["sh", "-s"], input=down.make_script(cluster, clean=clean), capture_output=True, text=True, check=False
    )
    return down.read_remains(HEAD, CommandResult(done.returncode, done.stdout, done.stderr))


def test_what_is_left_is_reported_then_removed(
    cluster: ClusterFile, mounts: Path, tmp_path: Path, add_program: Add
) -> None:
    """Containers by the cluster's label, its volumes and its mount folder; nothing is removed without `clean`."""
    ids, log, volumes = tmp_path / "ids", tmp_path / "log", tmp_path / "volumes"
    add_program("docker", DOCKER.format(ids=ids, log=log, volumes=volumes))
    volumes.write_text("raylaunch-test-home\nraylaunch-test-ray\n")
    ids.write_text("old-f00\nold-ba7\n")  # as hexadecimal, other containers of this machine may have them
    (mounts / "test" / "key").mkdir(parents=True)
    named = ("volume raylaunch-test-home", "volume raylaunch-test-ray")
    left = ("container old-f00", "container old-ba7", *named, f"folder {mounts}/test")
    assert run(cluster, clean=False) == Remains(HEAD, left)
    look = [LIST, "volume inspect --format {{.Name}} raylaunch-test-home raylaunch-test-ray"]
    assert log.read_text().splitlines() == [LIST, *look]
    assert run(cluster, clean=True) == Remains(HEAD)
    removals = ["rm -f old-f00 old-ba7", look[1], "volume rm raylaunch-test-home raylaunch-test-ray"]
    assert log.read_text().splitlines()[3:] == [LIST, *removals, *look]
    assert not mounts.exists()


def test_another_clusters_mounts_are_kept(cluster: ClusterFile, mounts: Path, add_program: Add) -> None:
    add_program("docker", "exit 0")
    (mounts / "other").mkdir(parents=True)
    assert run(cluster, clean=True) == Remains(HEAD)
    assert (mounts / "other").is_dir()


def test_files_of_root_are_removed_by_a_container(
    cluster: ClusterFile, mounts: Path, tmp_path: Path, add_program: Add
) -> None:
    """Where rm is refused: docker runs the cluster's image with the folder."""
    log = tmp_path / "log"
    add_program("docker", f'echo "$*" >>{log}')
    add_program("rm", "exit 1")
    (mounts / "test").mkdir(parents=True)
    assert run(cluster, clean=True).left == (f"folder {mounts}/test",)
    expected = f"run --rm --entrypoint rm -v {mounts}:/mounts raylaunch:0.32.0 -rf /mounts/test"
    assert expected in log.read_text().splitlines()


@pytest.mark.usefixtures("mounts")
def test_a_daemon_that_is_down_is_not_clean(cluster: ClusterFile, add_program: Add) -> None:
    """What it has is unknown; a host without docker has nothing."""
    add_program("docker", "echo 'Cannot connect to the Docker daemon' >&2; exit 1")
    assert run(cluster, clean=True).left == ("containers in an unknown state: Cannot connect to the Docker daemon",)
    add_program("docker", "exit 127")
    assert run(cluster, clean=True) == Remains(HEAD)


def test_a_host_that_cannot_be_reached_is_not_clean(cluster: ClusterFile) -> None:
    refused = "ssh: connect to host 10.0.0.2 port 22: No route to host"
    remains = [Remains(HEAD, ("container f00",)), down.read_remains(WORKER, CommandResult(255, stderr=refused))]
    with pytest.raises(ClusterError) as caught:
        down.raise_for(cluster, remains)
    assert caught.value.what == (
        f"test is not completely down: {WORKER} cannot be checked: {refused}; {HEAD} still has container f00"
    )
    assert f"raylaunch down {cluster.path}" in caught.value.fix
    down.raise_for(cluster, [Remains(HEAD), Remains(WORKER)])


def test_a_cluster_that_is_down_is_forgotten(
    cluster: ClusterFile, fake_ssh: FakeSsh, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Keys and Ray's state go, the token stays; no launcher is started and nothing is removed on the hosts."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    folder = artifacts.write_kit(cluster)
    state = tmp_path / "ray" / "cluster-test.state"
    for path in (folder / "keys" / "8080", folder / "ray" / "state", state):
        path.parent.mkdir(parents=True)
        path.touch()
    fake_ssh.answer("sh -s")
    down.down(cluster)
    assert "test is down: nothing of it is on 10.0.0.1, 10.0.0.2" in capsys.readouterr().err
    assert sorted(path.name for path in folder.iterdir()) == ["image", "token"]  # and no owner
    assert not state.exists()
    assert [call.stdin for call in fake_ssh.calls] == [down.make_script(cluster, clean=False)] * 2


def test_a_cluster_that_serves_is_not_taken_down_unasked(
    cluster: ClusterFile, fake_ssh: FakeSsh, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a terminal: what serves, and --yes; nothing was stopped."""
    fake_ssh.answer("list_services", stdout="8080 a/b\n")
    with pytest.raises(SystemExit) as ended:
        main.main(["down", str(cluster.path)])
    assert ended.value.code == 1
    printed = capsys.readouterr().err
    assert "error: test serves a/b on port 8080\n" in printed
    assert f"raylaunch down {cluster.path} --yes" in printed
    assert [call.host for call in fake_ssh.calls] == [HEAD]
