"""Where the system gives no process: told in words, nothing lost, and gone on as soon as it gives one."""

import contextlib
import resource
import threading
from collections.abc import Iterator
from pathlib import Path

import launches
import pytest

from raylaunch.errors import NoProcessError
from raylaunch.keep.attempt import Attempt
from raylaunch.keep.door import listen
from raylaunch.keep.spare import Spare
from raylaunch.keep.starts import Starts
from raylaunch.private_ray import find_free_ports
from raylaunch.supervisor import Supervisor


@contextlib.contextmanager
def no_files() -> Iterator[None]:
    """This process can open no file more: no pipe, no log, no child."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def count_files() -> int:
    return len([*Path("/proc/self/fd").iterdir()])


def test_a_shortage_is_told_and_nothing_leaks(tmp_path: Path) -> None:
    with listen("127.0.0.1", 0) as bound:
        starts = Starts(launches.load(launches.write(tmp_path)), None, bound, tmp_path, rehearse=False)
        before = count_files()
        with no_files(), pytest.raises(NoProcessError, match="no process can be started: Too many open files"):
            starts.begin()
        assert count_files() == before
        attempt = starts.begin()
        assert attempt.engine.is_alive()
        attempt.end()
        assert count_files() == before


def test_a_spare_that_cannot_be_had_troubles_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine that serves is not ended for it, and it is not tried again at once."""
    with listen("127.0.0.1", 0) as bound:
        starts = Starts(launches.load(launches.write(tmp_path)), None, bound, tmp_path, rehearse=False)
        tried = []

        def begin() -> Attempt:
            tried.append(1)
            with no_files():
                return starts.begin_spare()

        monkeypatch.setattr("raylaunch.keep.spare._ROOM_BYTES", 0)
        spare = Spare(lambda: False)
        spare.turn(True, begin)
        spare.turn(True, begin)
        assert len(tried) == 1
        with no_files():  # not even memory can be measured
            Spare(lambda: False).turn(True, starts.begin_spare)
        assert spare.take() is None
        spare.close()


def test_a_restart_waits_until_there_is_a_process() -> None:
    """An engine has served before: a shortage is waited out, and the port says so meanwhile."""
    (port,) = find_free_ports(1)
    sets = (f"server.port={port}", "server.host=127.0.0.1", "model.path=/nowhere/model")
    launch = launches.load(None, *sets)
    supervisor = Supervisor(launch, rehearse=False)
    supervisor.was_ready = True
    try:
        with contextlib.ExitStack() as shortage:
            shortage.enter_context(no_files())
            threading.Timer(2.5, shortage.pop_all().close).start()
            attempt = supervisor.begin_and_place()
        assert attempt.engine.is_alive()
        assert "no process can be started" in supervisor.board.look().text
    finally:
        supervisor.stop()
