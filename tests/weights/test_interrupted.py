"""Killed at random bytes, often: a pull completes, and fetches at most one chunk twice from the hub each time."""

import multiprocessing
import random
import time
from pathlib import Path

import pytest

from raylaunch.node.model_folder import find_problems
from raylaunch.weights.transfer import CHUNK_BYTES
from tests.hub_server import Hub

from .conftest import SHARDS, make_safetensors, run_pull, wanted_of

_KILLS = 100
_SOCKET_BYTES = int(Path("/proc/sys/net/ipv4/tcp_rmem").read_text().split()[2])
"""What the kernel may hold for a pull that a busy machine does not let read: sent by the hub, never received."""
_DEADLINE_S = 60


def measure(folder: Path) -> int:
    aside = folder.with_name(f"{folder.name}.download")
    total = 0
    for place in (aside, folder):
        for path in place.glob("[!.]*") if place.exists() else ():
            try:
                total += path.stat().st_size
            except FileNotFoundError:
                continue  # renamed meanwhile
    return total


@pytest.mark.slow
def test_a_hundred_kills_at_random_bytes(model_hub: Hub, folder: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    for name in SHARDS:
        model_hub.files[name] = make_safetensors(24 << 20)
    model_hub.pace_bytes_s = 8e6  # slower than a pull on a busy machine: what sockets hold is no loss of the pull
    total = sum(len(body) for body in wanted_of(model_hub).values())
    forks = multiprocessing.get_context("forkserver")  # imports once, so that a hundred starts take seconds
    forks.set_forkserver_preload([run_pull.__module__, "huggingface_hub.hf_api", "raylaunch.weights.hub"])
    folder.parent.mkdir(parents=True)
    lost = most = 0
    for point in sorted(chance.randrange(total) for _ in range(_KILLS)):
        fetching = forks.Process(target=run_pull, args=(folder, model_hub.url))
        fetching.start()
        until = time.monotonic() + _DEADLINE_S
        while measure(folder) < point and fetching.is_alive():
            assert time.monotonic() < until
            time.sleep(0.001)
        fetching.kill()
        fetching.join()
        before, lost = lost, model_hub.count_sent() - measure(folder)
        most = max(most, lost - before)
        assert lost - before <= CHUNK_BYTES + _SOCKET_BYTES
    run_pull(folder, model_hub.url)
    assert find_problems(folder, deep=True) == ()
    assert {path.name: path.read_bytes() for path in folder.glob("[!.]*")} == wanted_of(model_hub)
    twice = model_hub.count_sent() - total
    print(f"{twice:,} bytes twice, at most {most:,} for one kill")
    assert twice <= _KILLS * CHUNK_BYTES
