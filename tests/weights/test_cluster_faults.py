"""A model over three hosts, each with a network and file system of its own: damage, hosts that go or come, no room."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from benchmarks.islands import Islands
from raylaunch.weights.transfer import CHUNK_BYTES
from tests.hub_server import Hub

from .conftest import SHARDS, wanted_of
from .fleet import DEADLINE_S, assert_whole, kill_agent, measure, pull, read_all, run, start, wait_until

pytestmark = [pytest.mark.ray, pytest.mark.root]
_KILLS = int(os.environ.get("SPREAD_KILLS", "5"))


# ---- damage, named, and fetched again from a peer


def flip_byte(file_path: Path, at: int) -> None:
    with file_path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 1]))


def test_damage_is_found_named_and_mended_from_a_peer(hosts: Islands, hub: Hub, model: Path) -> None:
    """Cut short, a byte flipped, too long, vanished: each on its host, and the hub out of reach."""
    pull(hosts, model, endpoint=hub.url)
    sent = hub.count_sent()
    first, second, third = (island.find(model) for island in hosts.islands)
    os.truncate(first / SHARDS[0], 1 << 20)
    flip_byte(second / SHARDS[1], 5_000_003)
    with (third / SHARDS[0]).open("ab") as file:
        file.write(b"x")
    (third / "config.json").unlink()
    status, text = run(hosts, model, "check")
    assert status == 1
    words = {tuple(line.split()[:2]) for line in text.splitlines() if line.startswith("10.")}
    by_host = {island.ip: {file for ip, file in words if ip == island.ip} for island in hosts.islands}
    assert by_host[hosts.islands[0].ip] >= {SHARDS[0]}
    assert by_host[hosts.islands[1].ip] >= {SHARDS[1]}
    assert by_host[hosts.islands[2].ip] >= {SHARDS[0], "config.json"}
    status, text = run(hosts, model, "pull", "--verify")
    assert status == 1
    assert f"{SHARDS[0]} (1,048,576 bytes, not " in text.replace("\n", " ")
    text = pull(hosts, model, "--verify", "--replace")
    assert f"{model}.replaced-" in text
    for island in hosts.islands:
        for kept in island.find(hosts.data).glob("*.replaced-*"):
            shutil.rmtree(kept)
    assert_whole(hosts, model, hub)
    assert hub.count_sent() == sent


def test_damaged_source_is_found_out_and_mended(hosts: Islands, hub: Hub, model: Path) -> None:
    """Its manifest and samples vouch for it; the hashes of those that it is sent to do not."""
    pull(hosts, model, endpoint=hub.url)
    first, _, third = (island.find(model) for island in hosts.islands)
    flip_byte(first / SHARDS[1], 5_000_003)
    (third / SHARDS[1]).unlink()
    assert f"{hosts.islands[0].ip}: {SHARDS[1]} is damaged there" in pull(hosts, model, "--replace")
    for kept in hosts.islands[0].find(hosts.data).glob("*.replaced-*"):
        shutil.rmtree(kept)
    assert_whole(hosts, model, hub)


# ---- things that go away, come, or are full


def test_killed_task_is_replaced(hosts: Islands, hub: Hub, model: Path) -> None:
    """The pull starts another agent and continues."""
    hub.pace_bytes_s = 10e6
    process = start(hosts, model, "pull", endpoint=hub.url)
    wait_until(lambda: measure(hosts.islands[1], model) > 6 << 20, process)
    kill_agent(hosts.islands[1])
    text, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, text
    assert f"{hosts.islands[1].ip} was lost" in text
    assert_whole(hosts, model, hub)
    assert hub.count_sent() <= sum(len(body) for body in wanted_of(hub).values()) + CHUNK_BYTES


def test_lost_node_is_named_and_the_others_are_complete(hosts: Islands, hub: Hub, model: Path) -> None:
    """It takes the model from the others once it is back."""
    hub.pace_bytes_s = 10e6
    lost = hosts.islands[2]
    process = start(hosts, model, "pull", endpoint=hub.url)
    wait_until(lambda: measure(lost, model) > 4 << 20, process)
    hosts.kill_ray(lost)
    text, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 1, text
    assert f"{lost.ip} was lost during the pull; 2 nodes have the complete model" in text
    assert_whole(hosts, model, hub, without=lost)
    hosts.start_ray(lost)
    pull(hosts, model)
    assert_whole(hosts, model, hub)


@pytest.mark.whole
def test_node_that_joins_in_the_middle_gets_it_too(hosts: Islands, hub: Hub, model: Path) -> None:
    hub.pace_bytes_s = 0.2e6
    late = hosts.islands[2]
    hosts.kill_ray(late)
    hosts.wait_alive(2)
    process = start(hosts, model, "pull", endpoint=hub.url, nodes=2)
    wait_until(lambda: measure(hosts.islands[0], model) > 1 << 16, process)
    hosts.start_ray(late)
    hub.pace_bytes_s = None
    text, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, text
    assert_whole(hosts, model, hub)


@pytest.mark.whole
def test_full_disk_on_one_node(hosts: Islands, hub: Hub, model: Path) -> None:
    """A full disk is reported before the first byte; if it fills up later, the other nodes are completed."""
    victim = hosts.islands[1]
    stuffing = victim.find(hosts.data / "stuffing")
    stuffing.write_bytes(bytes(80 << 20))
    status, text = run(hosts, model, "pull", endpoint=hub.url)
    assert status == 1
    assert f"{victim.ip} needs 0.0 GB more" in text
    assert hub.count_sent() == 0
    stuffing.unlink()
    hub.pace_bytes_s = 10e6
    process = start(hosts, model, "pull", endpoint=hub.url)
    wait_until(lambda: measure(victim, model) > 1 << 20, process)
    with contextlib.suppress(OSError):
        stuffing.write_bytes(bytes(96 << 20))
    text, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 1, text
    assert f"{victim.ip}: " in text
    assert "No space left" in text
    stuffing.unlink()
    for island in hosts.islands:
        if island is not victim:
            assert read_all(island, model) == wanted_of(hub)
    pull(hosts, model)
    assert_whole(hosts, model, hub)


@pytest.mark.whole
def test_path_that_cannot_be_used_on_one_node(hosts: Islands, hub: Hub, model: Path) -> None:
    victim = hosts.islands[1]
    victim.find(model).write_text("x")
    status, text = run(hosts, model, "pull", endpoint=hub.url)
    assert status == 1
    assert f"{victim.ip}: {model} is a file, not a folder" in text
    victim.find(model).unlink()
    subprocess.run(victim.command(["mount", "-o", "remount,ro", str(hosts.data)]), check=True)
    status, text = run(hosts, model, "pull", endpoint=hub.url)
    subprocess.run(victim.command(["mount", "-o", "remount,rw", str(hosts.data)]), check=True)
    assert status == 1
    assert f"{victim.ip}: the model cannot be written to {model}: Read-only" in text


def test_kills_of_task_driver_and_raylet_at_random_bytes(hosts: Islands, hub: Hub, model: Path) -> None:
    """SPREAD_KILLS=100 makes it the long run; the hub sends at most one chunk again for each kill."""
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    hub.pace_bytes_s = 8e6
    size = sum(len(body) for body in wanted_of(hub).values())
    process: subprocess.Popen[str] | None = None
    kinds = [chance.choice(("task", "driver", "raylet")) for _ in range(_KILLS)]
    print(f"seed {seed}: {', '.join(kinds)}")
    for kind, point in zip(kinds, sorted(chance.randrange(size) for _ in kinds), strict=True):
        if process is None or process.poll() is not None:
            process = start(hosts, model, "pull", endpoint=hub.url)
        victim = chance.choice(hosts.islands[1:])  # the driver needs the head's
        wait_until(lambda point=point: hub.count_sent() >= point, process)  # type: ignore[misc]
        if kind == "task":
            kill_agent(chance.choice(hosts.islands))
        elif kind == "driver":
            for pid in hosts.islands[0].list_pids():
                with contextlib.suppress(OSError):
                    if b"\0raylaunch\0" in Path(f"/proc/{pid}/cmdline").read_bytes():
                        os.kill(pid, signal.SIGKILL)
            process.wait(DEADLINE_S)
        else:
            hosts.kill_ray(victim)
            hosts.start_ray(victim)
    if process is not None:
        process.communicate(timeout=DEADLINE_S)
    hub.pace_bytes_s = None
    pull(hosts, model, endpoint=hub.url)
    assert_whole(hosts, model, hub)
    twice = hub.count_sent() - size
    print(f"{twice:,} bytes twice for {len(kinds)} kills")
    assert twice <= len(kinds) * CHUNK_BYTES
