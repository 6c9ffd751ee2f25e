"""Children end with all their descendants, and identities survive pid reuse."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from raylaunch.base.processes import Child, ProcessId, group_exists, kill_led, kill_marked, list_marked, wait_until

PORT = os.getpid()
"""Stands for a service's port in the marks: no other test process on this machine has it."""
PREFIX = f"{PORT}-1"


def start(script: str, log: Path) -> Child:
    with log.open("wb") as output:
        return Child.start([sys.executable, "-u", "-c", script], environment=os.environ, output=output)


def start_with_child(first: str, log: Path) -> tuple[Child, ProcessId]:
    """A child that runs `first` and starts a child of its own, and that one; both sleep."""
    child = start(
        f"import signal, subprocess, sys, time; {first};"
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); print(p.pid); time.sleep(600)",
        log,
    )
    assert wait_until(lambda: log.read_text().strip() != "", 30)
    grandchild = ProcessId.of(int(log.read_text()))
    assert grandchild is not None
    return child, grandchild


def test_identity_is_of_one_process_only() -> None:
    """The pid with another start time is another process; a zombie is gone."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    identity = ProcessId.of(child.pid)
    assert identity is not None
    assert identity.is_alive()
    assert not ProcessId(identity.pid, identity.started - 1).is_alive()
    child.kill()
    assert wait_until(lambda: not identity.is_alive(), 10)  # a zombie until it is reaped
    child.wait()
    assert ProcessId.of(child.pid) is None


def test_stubborn_child_is_killed_with_its_own_children(tmp_path: Path) -> None:
    """A child that ignores SIGTERM, and its child, are gone after the grace period."""
    child, grandchild = start_with_child("signal.signal(signal.SIGTERM, signal.SIG_IGN)", tmp_path / "log")
    child.send(signal.SIGTERM)
    assert child.wait_or_kill(0.5) is False
    assert wait_until(lambda: not group_exists(child.popen.pid), 10)
    assert wait_until(lambda: not grandchild.is_alive(), 10)


def test_a_group_of_the_unreaped_is_gone() -> None:
    """In a container without an init, zombies stay: waiting for one would take the full grace period each time."""
    child = subprocess.Popen(["true"], start_new_session=True)
    assert wait_until(lambda: ProcessId.of(child.pid) is None, 10)
    os.killpg(child.pid, 0)  # to the kernel there is a group
    assert not group_exists(child.pid)
    child.wait()


def test_what_a_killed_leader_leaves_is_not_waited_for(tmp_path: Path) -> None:
    """It could not end its child, which is killed at once, without a grace period."""
    child, orphan = start_with_child("pass", tmp_path / "log")
    child.send(signal.SIGKILL)
    began = time.monotonic()
    assert child.wait_or_kill(10.0) is True
    assert not orphan.is_alive()
    assert time.monotonic() - began < 2.5  # the grace period of a group is three


@pytest.mark.parametrize("outlives", [False, True])
def test_child_hears_of_its_parents_death(tmp_path: Path, outlives: bool) -> None:
    """kill -9 of the parent: the child receives SIGTERM, unless it has declared that it learns of it by other means."""
    mark = tmp_path / "mark"
    inner = (
        "import pathlib, signal, sys, time; from raylaunch.base.processes import outlive_parent;"
        f"signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path({str(mark)!r}).write_text('signalled'), sys.exit()));"
        f"{outlives} and outlive_parent(); print('up', flush=True); sys.stdin.read(); time.sleep(0.5);"
        f"pathlib.Path({str(mark)!r}).write_text('not signalled')"
    )
    log = tmp_path / "log"
    outer = (
        "import os, subprocess, sys, time; from raylaunch.base.processes import Child;"
        f"Child.start([sys.executable, '-c', {inner!r}], environment=os.environ, output=open({str(log)!r}, 'wb'),"
        "stdin=subprocess.PIPE); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", outer])
    assert wait_until(lambda: log.exists() and "up" in log.read_text(), 30)
    parent.kill()
    parent.wait()
    assert wait_until(lambda: mark.exists() and mark.read_text() != "", 10)
    assert mark.read_text() == ("not signalled" if outlives else "signalled")


def test_marked_processes_are_ended_and_no_others() -> None:
    """Of two sleeping processes the one that carries the mark goes, a stopped one too; the other stays."""
    ours, theirs = (
        subprocess.Popen(["sleep", "600"], env={"PATH": os.environ["PATH"], "RAYLAUNCH_MARK": mark})
        for mark in (f"{PREFIX}-1", f"{PREFIX}-2")
    )
    try:
        os.kill(ours.pid, signal.SIGSTOP)
        assert wait_until(lambda: list_marked("RAYLAUNCH_MARK", f"{PREFIX}-1") == [ours.pid], 10)
        assert list_marked("RAYLAUNCH_MARK", f"{PREFIX}-1", ("leep", "ray::")) == []
        assert list_marked("RAYLAUNCH_MARK", f"{PREFIX}-1", ("ray::", "slee")) == [ours.pid]
        assert kill_marked(f"{PREFIX}-1") == [ours.pid]
        assert ours.wait(timeout=10) == -signal.SIGKILL
        assert theirs.poll() is None
        assert kill_marked(f"{PREFIX}-1") == []
        assert list_marked("RAYLAUNCH_MARK", f"{PREFIX}-*") == [theirs.pid]
        assert list_marked("RAYLAUNCH_MARK", f"{PORT}-*-2") == []
    finally:
        theirs.kill()
        theirs.wait()


def test_a_mark_behind_an_overwritten_start_of_the_environment_is_found() -> None:
    """A title that a process gives itself may fill the start of its environment with zeros."""
    overwrite = (
        "import ctypes, sys; first = ctypes.c_void_p.in_dll(ctypes.CDLL(None), 'environ');"
        "ctypes.memset(ctypes.c_void_p.from_address(first.value).value, 0, len('FIRST=1'));"
        "print('done', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", overwrite],
        env={"FIRST": "1", "RAYLAUNCH_MARK": "8080-1-3"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"done\n"
        assert Path(f"/proc/{child.pid}/environ").read_bytes().startswith(b"\0")
        assert list_marked("RAYLAUNCH_MARK", "8080-1-3") == [child.pid]
        child.communicate()


def test_groups_of_dead_leaders_are_ended_where_they_carry_the_mark(tmp_path: Path) -> None:
    """Of two groups whose leaders are gone the marked one goes, and one whose leader lives; a reused pid stays."""
    script = "import subprocess; print(subprocess.Popen(['sleep', '600']).pid)"
    leaders, orphans = [], []
    for mark in (f"{PREFIX}-1", f"{PREFIX}-2"):
        log = tmp_path / mark
        with log.open("wb") as output:
            environment = os.environ | {"RAYLAUNCH_MARK": mark}
            child = Child.start([sys.executable, "-c", script], environment=environment, output=output)
        child.popen.wait()
        leaders.append(child.identity)
        orphan = ProcessId.of(int(log.read_text()))
        assert orphan is not None
        orphans.append(orphan)
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as living:
        identity = ProcessId.of(living.pid)
        assert identity is not None
        kill_led([*leaders, ProcessId(living.pid, identity.started - 1)], f"{PREFIX}-1")
        assert wait_until(lambda: not orphans[0].is_alive(), 10)
        assert orphans[1].is_alive()
        assert living.poll() is None
        kill_led([leaders[1], identity], f"{PREFIX}-2")
        assert living.wait(10) == -signal.SIGKILL
    assert wait_until(lambda: not orphans[1].is_alive(), 10)
