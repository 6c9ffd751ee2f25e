"""The image of a cluster: which hosts load it, and when two hosts count as having the same."""

from pathlib import Path

import pytest

from raylaunch.base.errors import ClusterError
from raylaunch.provision import image
from raylaunch.provision.host_shell import HostShell
from raylaunch.provision.ssh import CommandResult
from tests.provision.conftest import HEAD, WORKER, FakeSsh

HOSTS = (HEAD, WORKER)
LOAD = "docker load && docker image inspect --format '{{.Id}}' raylaunch:0.32.0 >/dev/null"
INSPECT = "docker image inspect --format '{{.Id}}' raylaunch:0.32.0"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "image.tar.gz"
    path.write_text("layers")
    return path


def list_loads(fake_ssh: FakeSsh) -> list[str]:
    assert all(call.stdin == "layers" for call in fake_ssh.calls if call.command == LOAD)
    return sorted(call.host for call in fake_ssh.calls if call.command == LOAD)


def test_nothing_is_loaded_where_all_have_it(
    shell: HostShell, fake_ssh: FakeSsh, archive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_ssh.answer(INSPECT, stdout="sha256:a\n")
    image.load_archive(shell, archive, HOSTS)
    assert list_loads(fake_ssh) == []
    assert set(fake_ssh.list_commands()) == {INSPECT}
    assert f"{HEAD}, {WORKER}: raylaunch:0.32.0 is present already" in capsys.readouterr().err


def test_it_is_loaded_where_it_is_missing(shell: HostShell, fake_ssh: FakeSsh, archive: Path) -> None:
    fake_ssh.answer(LOAD, stdout="Loaded image: raylaunch:0.32.0\n")
    fake_ssh.answer(INSPECT, host=WORKER, stderr="No such image", status=1, once=True)
    fake_ssh.answer(INSPECT, stdout="sha256:a\n")
    image.load_archive(shell, archive, HOSTS)
    assert list_loads(fake_ssh) == [WORKER]


def test_a_different_image_is_replaced(shell: HostShell, fake_ssh: FakeSsh, archive: Path) -> None:
    """Neither lacks it, but they differ: loaded on the first, then on the one that still differs."""
    fake_ssh.answer(LOAD)
    for _ in range(2):
        fake_ssh.answer(INSPECT, host=WORKER, stdout="sha256:old\n", once=True)
    fake_ssh.answer(INSPECT, stdout="sha256:a\n")
    image.load_archive(shell, archive, HOSTS)
    assert list_loads(fake_ssh) == [HEAD, WORKER]


def test_an_archive_of_another_image_is_an_error(shell: HostShell, fake_ssh: FakeSsh, archive: Path) -> None:
    """Loading succeeds, the hosts still differ."""
    fake_ssh.answer(LOAD)
    fake_ssh.answer(INSPECT, host=WORKER, stdout="sha256:b\n")
    fake_ssh.answer(INSPECT, stdout="sha256:a\n")
    with pytest.raises(ClusterError, match=r"different images by the name raylaunch:0.32.0, though .*image.tar.gz was"):
        image.load_archive(shell, archive, HOSTS)


def test_a_load_that_fails_names_host_and_cause(shell: HostShell, fake_ssh: FakeSsh, archive: Path) -> None:
    fake_ssh.answer(LOAD, host=WORKER, stderr="no space left on device\n", status=1)
    fake_ssh.answer(LOAD)
    fake_ssh.answer(INSPECT, status=1)
    with pytest.raises(ClusterError, match=f"{WORKER}: no space left on device") as caught:
        image.load_archive(shell, archive, HOSTS)
    assert HEAD not in caught.value.what
    assert "docker save raylaunch:0.32.0 | gzip >image.tar.gz" in caught.value.fix


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (CommandResult(0, "Loaded image: a\n"), ""),
        (CommandResult(1, "", "open /x: no such file\n"), "open /x: no such file"),
        (CommandResult(1, "Loaded image: b\n", "No such image: a\n"), "Loaded image: b, but No such image: a"),
    ],
)
def test_why_a_load_failed(result: CommandResult, text: str) -> None:
    assert image.describe_load_failure(result) == text


@pytest.mark.parametrize(
    ("images", "same"),
    [
        (("sha256:a layer-1", "sha256:a layer-1"), True),
        (("sha256:a layer-1", "sha256:b layer-1"), True),
        (("sha256:a layer-1", "sha256:b layer-2"), False),
        (("sha256:a", "sha256:b"), False),
        (("sha256:a layer-1", "sha256:b"), False),
        (("sha256:a", "sha256:a"), True),
    ],
)
def test_when_images_are_the_same(images: tuple[str, str], same: bool) -> None:
    """By id, or by the label of the same content on the same base."""
    assert image.are_same(dict(zip(HOSTS, images, strict=True))) is same


def test_hosts_that_run_different_images_are_an_error(shell: HostShell, fake_ssh: FakeSsh) -> None:
    fake_ssh.answer("docker inspect", host=HEAD, stdout="sha256:a layer-1\n")
    fake_ssh.answer("docker inspect", host=WORKER, stdout="sha256:b layer-2\n")
    with pytest.raises(ClusterError, match=f"run different images .*{HEAD} sha256:a layer-1, {WORKER}") as caught:
        image.compare_images(shell)
    assert "docker rmi raylaunch:0.32.0" in caught.value.fix
    expected = (
        "docker inspect --type container --format '{{.Image}} {{index .Config.Labels \"raylaunch.layer\"}}' raylaunch"
    )
    assert fake_ssh.list_commands() == [expected] * 2
