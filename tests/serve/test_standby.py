"""The standby: when there is one, when there is none, and that a failed one does no harm."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from raylaunch.base.processes import ProcessId, wait_until
from raylaunch.engine.load_table import LoadTable
from raylaunch.engine.rehearsal.plan import ResolvedLaunch
from raylaunch.serve.attempt import Attempt
from raylaunch.serve.attempts import AttemptFactory
from raylaunch.serve.listener import listen
from raylaunch.serve.standby import Standby
from tests.config import launches

from .shortage import no_files

_SERVED_S = 60.0


class Counting(AttemptFactory):
    """Counts what was begun, and may find the system without a file left."""

    begun = 0
    without_files = False
    children: tuple[ProcessId, ...] = ()

    def begin_standby(self) -> Attempt:
        self.begun += 1
        with no_files() if self.without_files else contextlib.nullcontext():
            attempt = super().begin_standby()
        self.children += (attempt.engine.process.identity,)
        return attempt


@pytest.fixture
def factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Counting]:
    """Of a launch whose model is never looked for: children only import. The room rule is off."""
    monkeypatch.setattr("raylaunch.serve.standby._START_BYTES", 0)
    with listen("127.0.0.1", 0) as bound:
        yield Counting(
            ResolvedLaunch(launches.load(launches.write(tmp_path))), bound, tmp_path, loads=LoadTable.create(1)
        )


@pytest.mark.engine
def test_it_imports_while_an_engine_serves_and_waits(factory: Counting) -> None:
    """Real imports; the child is handed over with a log of its own, and has nothing to import any more."""
    standby = Standby(factory, lambda: False)
    standby.update(1.0)
    assert factory.begun == 0  # the first requests have the machine for themselves

    def stands_by() -> bool:
        standby.update(_SERVED_S)
        return standby.pid is not None

    assert wait_until(stands_by, 120.0)
    pid = standby.pid
    attempt = standby.take()
    assert attempt is not None
    assert (attempt.engine.process.identity.pid, attempt.engine.log.name) == (pid, "engine.next.log")
    assert attempt.driver is None
    assert factory.begun == 1
    attempt.count_from_here(factory.log)
    assert factory.log.exists()
    attempt.end()
    assert not attempt.engine.is_alive()
    standby.close()


def test_none_where_the_launch_wants_none(factory: Counting, tmp_path: Path) -> None:
    """However long it has served."""
    factory.resolved = ResolvedLaunch(launches.load(launches.write(tmp_path), "keep.stand_by=false"))
    standby = Standby(factory, lambda: False)
    standby.update(_SERVED_S)
    assert factory.begun == 0


@pytest.mark.parametrize("fault", ["memory", "death"])
def test_it_goes_where_memory_is_short_and_is_not_tried_again_at_once(
    factory: Counting, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """The same when the kernel kills it because memory is short."""
    standby = Standby(factory, lambda: False)
    standby.update(_SERVED_S)
    (child,) = factory.children
    if fault == "memory":
        monkeypatch.setattr("raylaunch.serve.standby._KEEP_BYTES", 1 << 60)
    else:
        os.kill(child.pid, signal.SIGKILL)
        assert wait_until(lambda: not child.is_alive(), 10.0)
    standby.update(_SERVED_S)
    standby.update(_SERVED_S)
    standby.close()
    assert not child.is_alive()
    assert factory.begun == 1
    assert standby.take() is None


def test_one_that_cannot_be_had_troubles_nobody(factory: Counting) -> None:
    """The engine that serves is not ended for it, and it is not tried again at once."""
    standby = Standby(factory, lambda: False)
    with no_files():  # not even memory can be measured
        standby.update(_SERVED_S)
    assert factory.begun == 0
    factory.without_files = True
    other = Standby(factory, lambda: False)
    other.update(_SERVED_S)
    other.update(_SERVED_S)
    assert factory.begun == 1
    assert standby.take() is other.take() is None
    standby.close()
    other.close()
