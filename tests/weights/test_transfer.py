"""What is under way on a node is bounded, however fast the node before and however slow what is behind."""

import asyncio
import contextlib
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from pickle import PickleBuffer

import pytest

from benchmarks.spread import write_model
from raylaunch.cluster.private import PrivateRay
from raylaunch.weights.hub_types import RepoFile
from raylaunch.weights.partial_file import PartialFile, Unfinished
from raylaunch.weights.transfer import CHUNK_BYTES, Transfer
from raylaunch.weights.transfer_plan import CHUNKS_AT_MOST, count_files, count_streams, measure_window

_CHUNKS = 40
_STALLED_S = 0.5
_MODEL_MIB = 384
_MEMORY_BYTES = 360 << 20
"""Some 200 MB were seen; with Ray's task events, which keep what was sent, over 500 MB for this model, and no bound."""


def test_pieces_of_all_files_together_are_bounded() -> None:
    """Whatever the number of nodes and lanes: files under way times chunks of each."""
    for heads, lanes, from_hub in itertools.product(range(1, 33), range(1, 9), (True, False)):
        streams = heads * count_streams(heads, lanes, from_hub=from_hub)
        files = min(streams * count_files(streams), CHUNKS_AT_MOST)
        assert files * measure_window(streams) <= CHUNKS_AT_MOST


@pytest.mark.ray
def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    """Two real nodes, links as fast as this machine: store and heap stay far below 1 GiB and the model's size."""
    folders = [tmp_path / "n1" / "model", tmp_path / "n2" / "model"]
    write_model(folders[0], _MODEL_MIB, 4)
    folders[1].parent.mkdir()
    command = [sys.executable, "-m", "benchmarks.spread_inside", "--nodes", "2", "--repeat", "1"]
    command += ["--folder", str(folders[0]), "--folders", *map(str, folders)]
    ray = PrivateRay.start(nodes=2, gpus_per_node=1, env_vars={})
    try:
        done = subprocess.run(
            [*command, "--address", ray.address], capture_output=True, text=True, check=False, timeout=180
        )
    finally:
        ray.stop()
    assert done.returncode == 0, done.stderr
    [run] = json.loads(done.stdout.splitlines()[-1])["runs"]
    assert run["peak_memory_bytes"] < _MEMORY_BYTES, run


def test_next_node_that_is_slow_holds_the_reader_back() -> None:
    """No more calls than the window, and no more read ahead than two chunks."""
    taken = handed_on = under_way = most_calls = most_ahead = 0

    def read() -> Iterator[bytes]:
        nonlocal taken, most_ahead
        for _ in range(_CHUNKS):
            taken += 1
            most_ahead = max(most_ahead, taken - handed_on)
            yield bytes(CHUNK_BYTES // 2)

    async def hop(_name: str, _offset: int, _data: PickleBuffer) -> None:
        nonlocal handed_on, under_way, most_calls
        under_way += 1
        most_calls = max(most_calls, under_way)
        await asyncio.sleep(0.005)
        under_way -= 1
        handed_on += 1

    async def send() -> None:
        transfer = Transfer("w", None)
        transfer.link(0, hop, 0, window=3)
        await transfer.send(read())
        await transfer.close()

    asyncio.run(send())
    assert handed_on == _CHUNKS
    assert most_calls == 3
    assert most_ahead <= 3 + 3


def test_disk_that_stalls_holds_the_node_before_back(tmp_path: Path) -> None:
    """The file is a pipe without a reader: the third chunk waits."""
    pipe = tmp_path / "w.part"
    os.mkfifo(pipe)

    async def fill() -> tuple[int, Unfinished]:
        part = PartialFile(tmp_path, "w", RepoFile(_CHUNKS << 20))
        taken = 0
        with contextlib.suppress(TimeoutError):
            for number in range(_CHUNKS):
                await asyncio.wait_for(part.append(number << 20, bytes(1 << 20)), _STALLED_S)
                taken += 1
        drain = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        ending = asyncio.ensure_future(part.finish())
        while not ending.done():
            try:
                os.read(drain, 1 << 20)
            except BlockingIOError:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0)
        os.close(drain)
        outcome = ending.result()
        assert isinstance(outcome, Unfinished)
        return taken, outcome

    taken, outcome = asyncio.run(fill())
    assert taken == 2
    assert "received 0 of" in outcome.reason
