"""Faults with requests in flight, one after the other on one service: that it survives them is the point.

The bars (docs/keep-serving.md): no client waits more than 10 s at a death, or the progress limit + 5 s at a wedge; the
port refuses no connection; no process is left. How long it takes to be ready again is printed, and held to a
deadline only: a shared machine's minutes are no measure.
"""

import contextlib
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from raylaunch.serve import incident as incidents
from raylaunch.serve.incident import Incident

from .. import harness
from ..apis import calling
from .clients import NO_JSON, Clients, Hammer
from .stage import (
    MODEL,
    PROGRESS_LIMIT_S,
    Row,
    Stage,
    find_living,
    hit_core,
    hit_server,
    kill_rank,
    send,
    stage,
    stop_rank,
)

pytestmark = [pytest.mark.engine, pytest.mark.faults, pytest.mark.alone]
RAYLET = ("raylet/raylet", "--node_ip_address=127.0.0.2")
SLACK_S = 10.0
"""For a machine of two cores that other work shares; docs/faults.md has the figures of a quiet one."""


@dataclass(frozen=True)
class Strike:
    """A main fault: how it is made, and what the service must make of it."""

    fault: str
    kind: str
    """"death" or "wedge"."""
    hit: Callable[[Stage], None]
    causes: tuple[str, ...]
    """Of its incident, any of these."""
    reported: str = ""
    """In every client's error."""
    replaces_ray: bool = False


KILLED_RANK = Strike(
    "kill -9 of the output rank", "death", kill_rank(1), ("worker",), reported="worker rank 1 on node "
)
STOPPED_RANK = Strike("SIGSTOP of a rank", "wedge", stop_rank(0), ("wedge",))
KILLED_CORE = Strike("kill -9 of EngineCore", "death", hit_core(signal.SIGKILL), ("engine",), reported="by signal 9")
KILLED_SERVER = Strike("kill -9 of the API server", "death", hit_server(signal.SIGKILL), ("engine",))
KILLED_KEEPER = Strike(
    "kill -9 of the private Ray's keeper",
    "death",
    send(signal.SIGKILL, "raylaunch.serve.private_ray_main"),
    ("node",),
    replaces_ray=True,
)
KILLED_RAYLET = Strike(
    "kill -9 of a raylet",
    "death",
    send(signal.SIGKILL, *RAYLET),
    ("node", "worker"),  # its workers', where Ray takes long to miss the node
    replaces_ray=True,
)
ONE_OF_EACH_KIND = (KILLED_RANK, STOPPED_RANK)
OTHERS = (KILLED_CORE, KILLED_SERVER, KILLED_KEEPER, KILLED_RAYLET)


def hold_bars(row: Row) -> None:
    limit_s = 10.0 if row.kind == "death" else PROGRESS_LIMIT_S + 5.0
    assert row.last_client_s < limit_s + SLACK_S, row
    assert "TIMED OUT" not in row.outcomes, row
    assert "complete" not in row.outcomes, row
    assert NO_JSON not in row.outcomes, row
    assert row.left == (), row


@pytest.mark.timeout(1200)
def test_main_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The supervisor killed; on the service that takes its place, one fault of each kind, a pause, and then a drain.

    Clients of the killed one get an error; the new serve on the same port ends what is left, and is ready. The API
    server is held meanwhile, so that all signs of it (a pipe's end, a signal) reach it in one moment. One rank a node:
    `make faults` has two. Needs the CPU engine, 4 GB of memory and three minutes.
    """
    with stage(tmp_path, tp=1) as first:
        monkeypatch.setenv("RAYLAUNCH_HOME", str(first.served.home))
        with take_over(first, hold_server_s=0.5) as (row, one):
            hold_bars(row)
            assert first.hammer.refused == []
            (supervisor,) = incidents.list_incidents()
            assert supervisor.cause == "supervisor"
            with calling(one.served.url, MODEL) as caller:
                found = strike_all(one, ONE_OF_EACH_KIND)
            assert caller.errors == []  # two retries are enough over a fault
            assert "rank 1" in found[0].what
            check_pause(one)
            assert one.record()["restarts"] == len(found)
            assert len(incidents.list_incidents()) == 1 + len(found)
            check_drain(one)
            assert one.hammer.refused == []
            assert len(one.hammer.unanswered) <= 8, one.hammer.unanswered  # what a killed API server held


@pytest.mark.whole
@pytest.mark.timeout(1200)
def test_other_main_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """EngineCore, API server, the private Ray's keeper, a raylet killed. Needs the CPU engine, 6 GB, four minutes."""
    with stage(tmp_path) as one:
        monkeypatch.setenv("RAYLAUNCH_HOME", str(one.served.home))
        strike_all(one, OTHERS)
        one.hammer.pause()
        assert one.hammer.refused == []


def strike_all(one: Stage, strikes: tuple[Strike, ...]) -> list[Incident]:
    """Each strike in turn, on one private Ray until a strike ends that; the strikes' incidents."""
    before = len(incidents.list_incidents())
    for number, strike in enumerate(strikes, 1):
        ray = one.record()["ray_address"]
        row = one.strike(strike.fault, strike.kind, strike.hit)
        hold_bars(row)
        assert all(strike.reported in outcome for outcome in re.split(r"; (?=\d+ x )", row.outcomes)), row
        assert (one.record()["ray_address"] != ray) == strike.replaces_ray, strike.fault
        assert one.record()["restarts"] == number
    found = incidents.list_incidents()[before:]
    for strike, entry in zip(strikes, found, strict=True):
        assert entry.cause in strike.causes, strike.fault
    assert {entry.outcome for entry in found} == {"serving again"}
    assert all((entry.folder / "ranks.log").stat().st_size for entry in found)
    return found


def check_pause(one: Stage) -> None:
    """A rank stands still and goes on before the limit: no request fails."""
    clients = Clients(one.served.url, MODEL)
    clients.start(streaming=2, plain=1, max_tokens=200)
    rank = one.find_rank(0)
    os.kill(rank, signal.SIGSTOP)
    try:
        time.sleep(PROGRESS_LIMIT_S / 2)
    finally:
        os.kill(rank, signal.SIGCONT)
    clients.wait()
    assert [sent.error for sent in clients.sent] == [None, None, None], clients.describe()


def check_drain(one: Stage) -> None:
    """SIGTERM: running requests finish, new ones get a 503, the exit code is 0, and no process is left."""
    clients = Clients(one.served.url, MODEL)
    clients.start(streaming=2, plain=0, max_tokens=24)
    refused_before = one.hammer.statuses.get(503, 0)
    one.served.process.send_signal(signal.SIGTERM)
    clients.wait()
    assert [sent.error for sent in clients.sent] == [None, None], clients.describe()
    assert [sent.tokens for sent in clients.sent] == [24, 24]
    one.hammer.pause()
    assert one.hammer.statuses[503] > refused_before
    assert one.served.process.wait(timeout=harness.END_DEADLINE_S) == 0
    assert one.served.wait_gone() == {}


@contextlib.contextmanager
def take_over(one: Stage, hold_server_s: float = 0.0) -> Iterator[tuple[Row, Stage]]:
    """kill -9 of the supervisor with requests in flight; a new serve, which is given, takes its place at once."""
    clients = Clients(one.served.url, MODEL)
    clients.start(streaming=2, plain=1)
    before = one.list_identities()
    one.hammer.pause()  # no process listens until the new one does
    server = one.find_server()
    struck = time.monotonic()
    if hold_server_s:
        os.kill(server, signal.SIGSTOP)
    os.kill(one.served.process.pid, signal.SIGKILL)
    if hold_server_s:
        time.sleep(hold_server_s)
        os.kill(server, signal.SIGCONT)
    last_s = clients.wait() - struck
    port = int(one.served.url.rpartition(":")[2])
    with harness.serving(one.served.home, str(one.launch), port=port) as taken:
        taken.wait_ready()
        ready_s = time.monotonic() - struck
        with Hammer(taken.url) as hammer:
            again = Stage(taken, hammer, one.launch)
            again.first_ready_s, again.first_memory_bytes = one.first_ready_s, one.first_memory_bytes
            again.wait_settled()
            yield Row(
                "kill -9 of the supervisor, and a new serve", "death", last_s, clients.describe(), ready_s,
                one.first_ready_s, find_living(before), again.measure_memory() / one.first_memory_bytes,
            ), again  # fmt: skip
