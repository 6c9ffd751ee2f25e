"""The serving child that stands by: when there is one, when there is none, and what it costs if it cannot be had."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from raylaunch.base.processes import ProcessId, wait_until
from raylaunch.engine.rehearsal.plan import ResolvedLaunch
from raylaunch.serve.attempt import Attempt
from raylaunch.serve.attempts import Starts
from raylaunch.serve.listener import listen
from raylaunch.serve.standby import Spare
from tests.config import launches

from .shortage import no_files

_SERVED_S = 60.0


class Counting(Starts):
    """Counts what was begun, and may find the system without a file left."""

    begun = 0
    without_files = False
    children: tuple[ProcessId, ...] = ()

    def begin_spare(self) -> Attempt:
        self.begun += 1
        with no_files() if self.without_files else contextlib.nullcontext():
            attempt = super().begin_spare()
        self.children += (attempt.engine.process.identity,)
        return attempt


@pytest.fixture
def starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Counting]:
    """Of a launch whose model is never looked for: children only import. The room rule is off."""
    monkeypatch.setattr("raylaunch.serve.standby._ROOM_BYTES", 0)
    with listen("127.0.0.1", 0) as bound:
        yield Counting(ResolvedLaunch(launches.load(launches.write(tmp_path))), bound, tmp_path)


@pytest.mark.engine
def test_it_imports_while_an_engine_serves_and_waits(starts: Counting) -> None:
    """Real imports; the child is handed over with a log of its own, and has nothing to import any more."""
    spare = Spare(starts, lambda: False)
    spare.turn(suspicious=False, ready_s=1.0)
    assert starts.begun == 0  # the first requests have the machine for themselves

    def stands_by() -> bool:
        spare.turn(suspicious=False, ready_s=_SERVED_S)
        return spare.standing_by is not None

    assert wait_until(stands_by, 120.0)
    pid = spare.standing_by
    attempt = spare.take()
    assert attempt is not None
    assert (attempt.engine.process.identity.pid, attempt.engine.log.name) == (pid, "engine.next.log")
    assert attempt.driver is None
    assert starts.begun == 1
    attempt.count_from_here(starts.log)
    assert starts.log.exists()
    attempt.end()
    assert not attempt.engine.is_alive()
    spare.close()


def test_none_where_the_launch_wants_none(starts: Counting, tmp_path: Path) -> None:
    """However long it has served."""
    starts.resolved = ResolvedLaunch(launches.load(launches.write(tmp_path), "keep.stand_by=false"))
    spare = Spare(starts, lambda: False)
    spare.turn(suspicious=False, ready_s=_SERVED_S)
    assert starts.begun == 0


@pytest.mark.parametrize("trouble", ["memory", "death"])
def test_it_goes_where_memory_is_short_and_is_not_tried_again_at_once(
    starts: Counting, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    """The same when somebody else ends it, as the kernel does where memory is short."""
    spare = Spare(starts, lambda: False)
    spare.turn(suspicious=False, ready_s=_SERVED_S)
    (child,) = starts.children
    if trouble == "memory":
        monkeypatch.setattr("raylaunch.serve.standby._NEED_BYTES", 1 << 60)
    else:
        os.kill(child.pid, signal.SIGKILL)
        assert wait_until(lambda: not child.is_alive(), 10.0)
    spare.turn(suspicious=False, ready_s=_SERVED_S)
    spare.turn(suspicious=False, ready_s=_SERVED_S)
    spare.close()
    assert not child.is_alive()
    assert starts.begun == 1
    assert spare.take() is None


def test_one_that_cannot_be_had_troubles_nobody(starts: Counting) -> None:
    """The engine that serves is not ended for it, and it is not tried again at once."""
    spare = Spare(starts, lambda: False)
    with no_files():  # not even memory can be measured
        spare.turn(suspicious=True, ready_s=0.0)
    assert starts.begun == 0
    starts.without_files = True
    other = Spare(starts, lambda: False)
    other.turn(suspicious=True, ready_s=0.0)
    other.turn(suspicious=True, ready_s=0.0)
    assert starts.begun == 1
    assert spare.take() is other.take() is None
    spare.close()
    other.close()
