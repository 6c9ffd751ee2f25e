"""The whole suite (`make faults`), with its table in docs/faults.md.

FAULTS_SEED=<number> repeats the random ones, FAULTS_RANDOM=<count> says how many; FAULTS_ONLY=<words> strikes only
where a fault's name holds one of them (separated by commas).
"""

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import BinaryIO

import pytest

from raylaunch.keep import incident as incidents

from .. import harness
from . import alone, table
from .clients import Clients, Hammer
from .stage import MODEL, Row, Stage, hit_core, kill_rank, send, stage, stop_rank
from .test_faults import RAYLET, hold_bars

pytestmark = [pytest.mark.engine, pytest.mark.faults, pytest.mark.whole]
RANDOM_FAULTS = 20

_KILL, _STOP = signal.SIGKILL, signal.SIGSTOP
SIGNALS = (
    *((f"kill -9 of rank {rank}", "death", kill_rank(rank)) for rank in range(4)),
    ("kill -9 of EngineCore", "death", hit_core(_KILL)),
    ("kill -9 of the API server", "death", send(_KILL, "-m raylaunch.server")),
    ("kill -9 of a raylet", "death", send(_KILL, *RAYLET)),
    ("kill -9 of the GCS", "death", send(_KILL, "gcs/gcs_server")),
    ("kill -9 of the driver process", "death", send(_KILL, "raylaunch.keep.driver_process")),
    ("SIGSTOP of a rank", "wedge", stop_rank(1)),
    ("SIGSTOP of EngineCore", "wedge", hit_core(_STOP)),
    ("SIGSTOP of the API server", "wedge", send(_STOP, "-m raylaunch.server")),
)
BARE = {
    "kill -9 of rank 1": (_KILL, 1),
    "kill -9 of rank 2": (_KILL, 2),
    "kill -9 of EngineCore": (_KILL, ("EngineCore",)),
    "kill -9 of a raylet": (_KILL, RAYLET),
    "kill -9 of the GCS": (_KILL, ("gcs/gcs_server",)),
    "SIGSTOP of a rank": (_STOP, 1),
    "SIGSTOP of EngineCore": (_STOP, ("EngineCore",)),
}


def kill_rank_and_want_port(one: Stage) -> None:
    kill_rank(0)(one)
    port = int(one.served.url.rpartition(":")[2])
    with socket.socket() as rival:
        rival.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="in use"):
            rival.bind(("127.0.0.1", port))


ONLY = os.environ.get("FAULTS_ONLY", "").split(",")
FAULTS = [
    fault
    for fault in (*SIGNALS, ("another process wants the port at restart", "death", kill_rank_and_want_port))
    if any(words in fault[0] for words in ONLY)
]


class Measured:
    """What has been measured so far; each figure is in the table as soon as it is known."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.drawn: list[Row] = []
        self.beside: dict[str, table.Alone] = {}
        self.seed = int(os.environ.get("FAULTS_SEED") or random.SystemRandom().randrange(10**6))
        self.hammer: Hammer | None = None

    def write(self) -> None:
        more = []
        if self.drawn:
            slowest = max(row.last_client_s for row in self.drawn)
            more.append(
                f"{len(self.drawn)} random faults in a row (seed {self.seed}): served again after each without a hand; "
                f"the slowest client waited {slowest:.1f} s."
            )
        if self.hammer is not None:
            more.append(
                f"A new connection every 20 ms meanwhile: {sum(self.hammer.statuses.values())} were answered, "
                f"{len(self.hammer.refused)} refused, {len(self.hammer.unanswered)} closed without an answer."
            )
        table.write(self.rows, self.beside, alone.PATIENCE_S, more)


@pytest.mark.timeout(7200)
def test_every_fault_and_twenty_random_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One service survives them all; the table is written whatever the bars say."""
    measured = Measured()
    print(f"FAULTS_SEED={measured.seed}")
    chance = random.Random(measured.seed)
    with stage(tmp_path) as one:
        monkeypatch.setenv("RAYLAUNCH_HOME", str(one.served.home))
        measured.hammer = one.hammer
        for fault in FAULTS:
            measured.rows.append(one.strike(*fault))
            measured.write()
        for _ in range(int(os.environ.get("FAULTS_RANDOM", RANDOM_FAULTS))):
            measured.drawn.append(one.strike(*chance.choice(FAULTS)))
            measured.write()
        one.hammer.pause()
        assert one.served.end(signal.SIGTERM) == 0
        assert one.served.wait_gone() == {}
    struck = {row.fault for row in measured.rows}
    for name, how in BARE.items():
        if name not in struck:
            continue
        measured.beside[name] = strike_alone(tmp_path / "alone", *how)
        measured.write()
    for row in measured.rows + measured.drawn:
        hold_bars(row)
    assert one.hammer.refused == []


def strike_alone(folder: Path, number: signal.Signals, target: int | tuple[str, ...]) -> table.Alone:
    folder.mkdir(exist_ok=True)
    with alone.bare_vllm(folder) as bare:
        if isinstance(target, int):
            pid = bare.find_rank(target)
        else:
            pid = bare.find_core() if "EngineCore" in target else bare.find(*target)
        return alone.strike(bare, number, pid)


@pytest.mark.timeout(1200)
def test_a_model_that_is_gone_ends_it_with_the_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model's folder vanishes, then a rank dies: five starts fail for one cause, exit 1, and the cause is told."""
    with stage(tmp_path) as one:
        monkeypatch.setenv("RAYLAUNCH_HOME", str(one.served.home))
        shutil.move(tmp_path / "model", tmp_path / "elsewhere")
        kill_rank(2)(one)
        assert one.served.process.wait(timeout=600) == 1
        assert "5 starts in a row failed for one cause" in one.served.text()
        assert str(tmp_path / "model") in one.served.text()
        assert incidents.find_incident("last").outcome == "gave up"
        assert one.served.wait_gone() == {}


@pytest.mark.root
@pytest.mark.timeout(900)
def test_a_full_disk_under_the_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a byte of room for logs, records and incidents: a rank dies, and it is served again all the same."""
    home = tmp_path / "home"
    home.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(home)], check=True)
    try:
        with stage(tmp_path) as one:
            filler = home / "filler"
            rank = one.find_rank(2)
            with filler.open("wb", buffering=0) as file:
                fill(file)
            clients = Clients(one.served.url, MODEL)
            clients.start(streaming=1, whole=1)
            os.kill(rank, signal.SIGKILL)
            clients.wait()
            wait_until_it_answers(one)
            one.ask()
            filler.unlink()
            one.hammer.pause()
            assert one.served.end(signal.SIGTERM) == 0
            assert one.served.wait_gone() == {}
    finally:
        subprocess.run(["umount", "-l", str(home)], check=True)


def fill(file: BinaryIO) -> None:
    """Write until there is no room for another byte."""
    for size in (65536, 1):
        with contextlib.suppress(OSError):
            while file.write(b"x" * size):
                pass


def wait_until_it_answers(one: Stage) -> None:
    """Serving again, told by the port itself: its output is on the full disk, too."""
    until = time.monotonic() + harness.READY_DEADLINE_S
    time.sleep(5)
    while True:
        clients = Clients(one.served.url, MODEL)
        clients.start(streaming=0, whole=1, max_tokens=2)
        clients.wait()
        if clients.sent[0].tokens == 2:
            return
        assert time.monotonic() < until, clients.describe()
        time.sleep(0.5)
