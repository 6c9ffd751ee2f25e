"""Nodes whose folders are in different states: what a verb reports and leaves. Real files, real client, real HTTP."""

import asyncio
import ctypes
import errno
import fcntl
import os
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from raylaunch.base.errors import WeightsError
from raylaunch.weights.expected_files import PullRequest
from raylaunch.weights.hub_types import HubAccess
from raylaunch.weights.own_files import OwnFilesChoice, OwnFilesError
from raylaunch.weights.pull import pull
from raylaunch.weights.verification import CheckResult, check, remove
from tests.hub_server import Hub

from .conftest import REPO, SHARDS, make_safetensors, wanted_of
from .test_nothing_lost import TwoNodes


class Lines:
    """Keeps what a pull reports."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def report(self, line: str) -> None:
        self.lines.append(line)

    def show(self, lines: object) -> None: ...


class Fleet:
    """Two nodes, each with a folder of its own, and the verbs over both."""

    def __init__(self, root: Path, hub: Hub) -> None:
        self.folders = [root / f"n{number}" / "models" / "m" for number in range(2)]
        self.hub, self.lines = hub, Lines()

    def fill(self, number: int, files: Mapping[str, bytes]) -> Path:
        folder = self.folders[number]
        folder.mkdir(parents=True)
        for name, body in files.items():
            (folder / name).write_bytes(body)
        return folder

    def run(self, verb: Callable[[TwoNodes], object]) -> None:
        agents = TwoNodes(self.folders)
        try:
            asyncio.run(verb(agents))  # type: ignore[arg-type]
        finally:
            asyncio.run(agents.end())

    def pull(self, choice: OwnFilesChoice = OwnFilesChoice.ASK) -> None:
        request = PullRequest(REPO, None, self.folders[0], HubAccess(self.hub.url), own_files=choice)
        self.run(lambda agents: pull(request, agents, self.lines))

    def check(self) -> CheckResult:
        return asyncio.run(check(REPO, None, self.folders[0], TwoNodes(self.folders), fast=False))


@pytest.fixture
def fleet(tmp_path: Path, model_hub: Hub) -> Fleet:
    return Fleet(tmp_path, model_hub)


def test_adopt_of_two_folders_that_differ_is_no_question_again(fleet: Fleet) -> None:
    """--adopt takes the first; the answer for the second is to move it away, after which its copy comes."""
    tuned = wanted_of(fleet.hub) | {SHARDS[0]: make_safetensors(4096)}
    fleet.fill(0, tuned)
    second = fleet.fill(1, tuned | {SHARDS[0]: tuned[SHARDS[0]][:-1]})
    with pytest.raises(OwnFilesError, match=rf"node1: {SHARDS[0]} \(4,169 bytes, not 4,170\)") as caught:
        fleet.pull(OwnFilesChoice.ADOPT)
    assert "node0, filled by hand" in caught.value.what
    assert "--adopt`" not in caught.value.fix
    subprocess.run(caught.value.fix.split("`")[1].replace("/n0/", "/n1/").split(), check=True)
    fleet.pull(OwnFilesChoice.ADOPT)
    assert {path.name: path.read_bytes() for path in second.glob("[!.]*")} == tuned


def test_rm_names_the_node_that_keeps_its_files(fleet: Fleet) -> None:
    """The other nodes are done, before and after it."""
    fleet.fill(0, wanted_of(fleet.hub))
    fleet.pull()
    with pytest.raises(WeightsError, match=r"^node0: no pull is known .*; removed from node1$") as caught:
        fleet.run(remove)
    assert caught.value.fix.startswith("on node0: ")
    assert not fleet.folders[1].exists()


def test_rm_on_shared_storage_with_a_lock_of_the_user(fleet: Fleet) -> None:
    """The second node does not take the first one's lock for another pull's."""
    fleet.folders[1] = fleet.folders[0]
    lock = fleet.folders[0].with_name("m.lock")
    lock.parent.mkdir(parents=True)
    lock.write_text("mine")
    fleet.pull()
    fleet.run(remove)
    assert [path.name for path in lock.parent.iterdir()] == ["m.lock"]


def test_lock_that_cannot_be_taken(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder in its place is named with the node; a file system without locks is no obstacle."""
    lock = fleet.folders[1].with_name("m.lock")
    lock.mkdir(parents=True)
    for verb in (fleet.pull, lambda: fleet.run(remove)):
        with pytest.raises(WeightsError, match=rf"^node1: .* cannot be locked: {lock}: Is a directory"):
            verb()
    lock.rmdir()

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    fleet.pull()
    assert sum("without locks" in line for line in fleet.lines.lines) == len(fleet.folders)


def drop_override() -> None:
    """From here on permissions count for this thread and those it starts, though it is root's: without CAP_DAC_*."""
    libc, dac = ctypes.CDLL(None), 0b110
    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    libc.capget(header, data)
    for number in range(3):  # effective, permitted, inheritable
        data[number] &= ~dac
    assert libc.capset(header, data) == 0


def test_folders_without_permission(fleet: Fleet) -> None:
    """Read-only: refused before a byte is fetched, accepted if whole; a file without permission is called that."""
    with ThreadPoolExecutor(1, initializer=drop_override) as pool:
        pool.submit(try_permissions, fleet).result()


def try_permissions(fleet: Fleet) -> None:
    folder = fleet.fill(0, {})
    folder.chmod(0o555)
    with pytest.raises(WeightsError, match=r"^node0: the model cannot be written .*: Permission denied"):
        fleet.pull()
    assert fleet.hub.count_sent() == 0
    folder.chmod(0o755)
    for name, body in wanted_of(fleet.hub).items():
        (folder / name).write_bytes(body)
    folder.chmod(0o555)
    folder.parent.chmod(0o555)
    fleet.pull()
    assert fleet.check().is_complete, "whole, though no manifest can be written there"
    (folder / SHARDS[0]).chmod(0)
    with pytest.raises(OwnFilesError, match="no permission to read it"):
        fleet.pull()
    folder.parent.chmod(0)
    with pytest.raises(WeightsError, match="cannot be read: Permission denied"):
        fleet.pull()
    folder.parent.chmod(0o755)
    folder.chmod(0o755)


def test_folder_that_another_program_fills(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy that still runs: reported, and given up, instead of looking again for ever."""
    monkeypatch.setattr("raylaunch.weights.survey._LOCK_POLL_S", 0.01)
    ended = threading.Event()

    def grow() -> None:
        with (fleet.folders[0] / "notes.txt").open("ab", buffering=0) as file:
            while not ended.is_set():
                file.write(b"x")
                time.sleep(0.001)

    fleet.folders[0].mkdir(parents=True)
    program = threading.Thread(target=grow)
    program.start()
    try:
        with pytest.raises(WeightsError, match=r"node0: files in .* keep changing"):
            fleet.pull()
    finally:
        ended.set()
        program.join()
