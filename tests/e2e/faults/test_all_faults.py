"""The complete suite (`make faults`), with its table in docs/faults.md.

FAULTS_SEED=<number> repeats the random ones, FAULTS_RANDOM=<count> is their number; FAULTS_ONLY=<texts> strikes only
where a fault's name contains one of them (separated by commas): what the others showed before stays in the table.
"""

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from raylaunch.serve import incident as incidents

from .. import harness
from . import alone, table
from .clients import Clients
from .stage import MODEL, Row, Stage, hit_core, hit_server, kill_rank, send, stage, stop_rank
from .test_faults import RAYLET, hold_bars, take_over

pytestmark = [pytest.mark.engine, pytest.mark.faults, pytest.mark.alone, pytest.mark.whole]
RANDOM_FAULTS = 20

IDLE = "SIGSTOP of a rank while no request runs"
PRESSURE = "host memory pressure"
FULL_DISK = "kill -9 of rank 2 on a full disk"
_KILL, _STOP = signal.SIGKILL, signal.SIGSTOP
SIGNALS = (
    *((f"kill -9 of rank {rank}", "death", kill_rank(rank)) for rank in range(4)),
    ("kill -9 of EngineCore", "death", hit_core(_KILL)),
    ("kill -9 of the API server", "death", hit_server(_KILL)),
    ("kill -9 of a raylet", "death", send(_KILL, *RAYLET)),
    ("kill -9 of the GCS", "death", send(_KILL, "gcs/gcs_server")),
    ("kill -9 of the driver process", "death", send(_KILL, "raylaunch.serve.driver_main")),
    ("kill -9 of the private Ray's keeper", "death", send(_KILL, "raylaunch.serve.private_ray_main")),
    ("SIGSTOP of a rank", "wedge", stop_rank(1)),
    ("SIGSTOP of EngineCore", "wedge", hit_core(_STOP)),
    ("SIGSTOP of the API server", "wedge", hit_server(_STOP)),
)
BARE = {
    **{f"kill -9 of rank {rank}": kill_rank(rank) for rank in range(4)},
    "kill -9 of EngineCore": hit_core(_KILL),
    "kill -9 of the API server": alone.hit_server(_KILL),
    "kill -9 of a raylet": send(_KILL, *RAYLET),
    "kill -9 of the GCS": send(_KILL, "gcs/gcs_server"),
    "SIGSTOP of a rank": stop_rank(1),
    "SIGSTOP of EngineCore": hit_core(_STOP),
    "SIGSTOP of the API server": alone.hit_server(_STOP),
    IDLE: stop_rank(3),
}


def kill_rank_and_want_port(one: Stage) -> None:
    kill_rank(0)(one)
    port = int(one.served.url.rpartition(":")[2])
    with socket.socket() as rival:
        rival.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="in use"):
            rival.bind(("127.0.0.1", port))


ONLY = os.environ.get("FAULTS_ONLY", "").split(",")


def is_asked_for(fault: str) -> bool:
    return any(words in fault for words in ONLY)


FAULTS = [
    fault
    for fault in (*SIGNALS, ("another process wants the port at restart", "death", kill_rank_and_want_port))
    if is_asked_for(fault[0])
]


def open_book() -> table.Book:
    return table.Book(give_up_s=alone.GIVE_UP_S)


@pytest.mark.timeout(3600)
def test_every_fault(tmp_path: Path) -> None:
    """One service survives them all, also one while no request runs; the table has them even if a bar fails."""
    book = open_book()
    with stage(tmp_path) as one:
        rows = []
        for fault in FAULTS:
            rows.append(one.strike(*fault))
            book.note_row(rows[-1])
        if not any(ONLY):
            rows.append(one.strike(IDLE, "wedge", stop_rank(3), clients=(0, 0)))
            book.note_row(rows[-1])
        end(one)
    for row in rows:
        hold_bars(row)


@pytest.mark.timeout(900)
def test_killed_supervisor(tmp_path: Path) -> None:
    """The supervisor's own row."""
    with stage(tmp_path) as one, take_over(one) as (row, again):
        open_book().note_row(row)
        hold_bars(row)
        end(again)


@pytest.mark.timeout(3600)
def test_twenty_random_faults(tmp_path: Path) -> None:
    """Faults drawn from a printed seed, in a row: each recovers by itself; the port refuses no connection meanwhile."""
    seed = int(os.environ.get("FAULTS_SEED") or random.SystemRandom().randrange(10**6))
    print(f"FAULTS_SEED={seed}", flush=True)
    chance, rows = random.Random(seed), []
    with stage(tmp_path) as one:
        for _ in range(int(os.environ.get("FAULTS_RANDOM", RANDOM_FAULTS))):
            rows.append(one.strike(*chance.choice(FAULTS)))
            hold_bars(rows[-1])
        end(one)
        hammer = one.hammer
    wedges = [row.last_client_s for row in rows if row.kind == "wedge"]
    deaths = [row.last_client_s for row in rows if row.kind == "death"]
    ratios = sorted(row.ratio for row in rows)
    book = open_book()
    book.note(
        "random",
        f"{len(rows)} random faults in a row (seed {seed}, {len(deaths)} deaths and {len(wedges)} wedges): served "
        f"again after each by itself. The slowest client waited {max(deaths, default=0):.1f} s at a death and "
        f"{max(wedges, default=0):.1f} s at a wedge; ready again within {ratios[len(ratios) // 2]:.2f} times the first "
        f"start in the middle, {ratios[-1]:.2f} at most. Memory at the end: {rows[-1].memory_ratio:.2f} times that of "
        "the first start.",
    )
    book.note(
        "port",
        f"A new connection every 20 ms meanwhile: {sum(hammer.statuses.values())} were answered, {len(hammer.refused)} "
        f"refused, {len(hammer.unanswered)} closed without an answer (those that a killed API server held).",
    )
    assert hammer.refused == []


def end(one: Stage) -> None:
    """The service ends as asked, and nothing of it is left."""
    one.hammer.pause()
    assert one.hammer.refused == []
    assert one.served.end(signal.SIGTERM) == 0
    assert one.served.wait_gone() == {}


@pytest.mark.timeout(3600)
def test_the_same_faults_under_vllm_alone(tmp_path: Path) -> None:
    """What our users would have without us: measured, and no bar on it."""
    book = open_book()
    (tmp_path / "full").mkdir()
    for name, hit in BARE.items():
        if is_asked_for(name):
            with alone.bare_vllm(tmp_path) as bare:
                book.note_alone(name, alone.strike(bare, hit, idle=name == IDLE))
    if is_asked_for(PRESSURE):
        threshold = read_memory_use() + 0.3
        with alone.bare_vllm(tmp_path, environ=make_threshold(threshold)) as bare:
            held = fill_memory(threshold - 0.02)
            book.note_alone(PRESSURE, alone.strike(bare, lambda _: press(threshold, held)))
    if is_asked_for(FULL_DISK):
        with small_disk(tmp_path / "full") as disk, alone.bare_vllm(tmp_path, log=disk / "log") as bare:
            with (disk / "filler").open("wb", buffering=0) as file:
                fill(file)
            book.note_alone(FULL_DISK, alone.strike(bare, kill_rank(2)))


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """8 MiB of room in `folder`."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.timeout(1200)
def test_a_model_that_is_gone_ends_it_with_the_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model's folder vanishes, then a rank dies: five starts fail for one cause; exit 1, the cause printed."""
    with stage(tmp_path) as one:
        monkeypatch.setenv("RAYLAUNCH_HOME", str(one.served.home))
        clients = Clients(one.served.url, MODEL)
        clients.start(streaming=2, plain=1)
        shutil.move(tmp_path / "model", tmp_path / "elsewhere")
        struck = time.monotonic()
        kill_rank(2)(one)
        last_s = clients.wait() - struck
        one.hammer.pause()
        assert one.served.process.wait(timeout=600) == 1
        open_book().note(
            "model",
            f"The model's folder vanished before a rank was killed: the last client waited {last_s:.1f} s, five starts "
            f"failed, and {time.monotonic() - struck:.0f} s after the strike serve ended: exit code 1, and the cause.",
        )
        assert one.hammer.refused == []
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
    with small_disk(home), stage(tmp_path) as one:
        filler = home / "filler"
        rank = one.find_rank(2)
        with filler.open("wb", buffering=0) as file:
            fill(file)
        clients = Clients(one.served.url, MODEL)
        clients.start(streaming=2, plain=1)
        struck = time.monotonic()
        os.kill(rank, signal.SIGKILL)
        last_s = clients.wait() - struck
        wait_until_it_answers(one)
        ready_s = time.monotonic() - struck
        one.ask()
        filler.unlink()
        one.wait_settled()
        memory = one.measure_memory() / one.first_memory_bytes
        left = (str(rank),) if Path(f"/proc/{rank}").exists() else ()
        row = Row(FULL_DISK, "death", last_s, clients.describe(), ready_s,
                  one.first_ready_s, left, memory)  # fmt: skip
        open_book().note_row(row)
        hold_bars(row)
        end(one)


@pytest.mark.timeout(900)
def test_host_memory_pressure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process takes the host's memory, so Ray kills a rank: the cause is reported, and it is served again.

    Needs about a third of the host's memory free: Ray's threshold is set to that above what is in use.
    """
    threshold = read_memory_use() + 0.3
    with stage(tmp_path, environ=make_threshold(threshold)) as one:
        monkeypatch.setenv("RAYLAUNCH_HOME", str(one.served.home))
        held = fill_memory(threshold - 0.02)  # what takes seconds before the strike is no part of it
        row = one.strike(PRESSURE, "death", lambda _: press(threshold, held))
        open_book().note_row(row)
        hold_bars(row)
        found = incidents.find_incident("last")
        assert found.cause == "worker"
        assert "memory" in found.what, found.what
        end(one)


def make_threshold(share: float) -> dict[str, str]:
    """Environment of a Ray that kills workers where more than this share of host memory is in use."""
    return {"RAY_memory_usage_threshold": f"{share:.3f}"}


def read_memory_use() -> float:
    """Share of host memory in use."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    figures = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    return 1 - figures["MemAvailable"] / figures["MemTotal"]


def fill_memory(share: float) -> list[bytes]:
    """Take memory until that share of the host's is in use."""
    held = []
    until = time.monotonic() + 60
    while read_memory_use() < share:
        held.append(b"x" * (64 << 20))
        assert time.monotonic() < until
    return held


def press(threshold: float, held: list[bytes]) -> None:
    """Take a little more than the threshold, and hold all of it until Ray must have seen it."""
    held += fill_memory(threshold + 0.02)
    time.sleep(2.0)
    held.clear()


def fill(file: BinaryIO) -> None:
    """Write until there is no room for another byte."""
    for size in (65536, 1):
        with contextlib.suppress(OSError):
            while file.write(b"x" * size):
                pass


def wait_until_it_answers(one: Stage) -> None:
    """Serving again, by an answer at the port: its output is on the full disk, too."""
    until = time.monotonic() + harness.READY_DEADLINE_S
    time.sleep(5)
    while True:
        clients = Clients(one.served.url, MODEL)
        clients.start(streaming=0, plain=1, max_tokens=2)
        clients.wait()
        if clients.sent[0].tokens == 2:
            return
        assert time.monotonic() < until, clients.describe()
        time.sleep(0.5)
