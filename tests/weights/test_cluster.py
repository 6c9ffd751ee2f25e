"""A model over three hosts, each with a network and a file system of its own: real Ray, real client, real HTTP."""

import contextlib
import fcntl
import json
import os
import pty
import random
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hub_server import Hub, serve

from benchmarks.islands import GATEWAY, Island, Islands, islands
from raylaunch.checks.manifest import MANIFEST
from raylaunch.weights.transfer import CHUNK_BYTES

from .conftest import REPO, SHARDS, make_files, make_safetensors, wanted_of

pytestmark = [pytest.mark.ray, pytest.mark.root]
NOWHERE = f"http://{GATEWAY}:9"
_DEADLINE_S = 120
_KILLS = int(os.environ.get("SPREAD_KILLS", "5"))


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Islands]:
    """Three hosts, 96 MiB of disk each."""
    with islands(3, tmp_path_factory.mktemp("data"), data_mib=96, is_reachable=True) as made:
        yield made


@pytest.fixture
def hub(hosts: Islands) -> Iterator[Hub]:
    """A hub that all hosts reach, with a model of two shards of 12 MiB."""
    files = make_files() | {name: make_safetensors(12 << 20) for name in SHARDS}
    with serve(Hub(REPO, files), GATEWAY) as running:
        yield running


@pytest.fixture
def model(hosts: Islands, tmp_path: Path) -> Iterator[Path]:
    """The model's path; whatever is there afterwards is removed."""
    folder = hosts.data / tmp_path.name
    yield folder
    for island in hosts.islands:
        subprocess.run(["find", island.find(hosts.data), "-mindepth", "1", "-delete"], check=True)


def write_command(hosts: Islands, model: Path, *words: str, nodes: int = 3) -> list[str]:
    """`raylaunch weights WORDS`."""
    launch = hosts.scratch / "launch.yaml"
    launch.write_text(
        f"model: {{repo: {REPO}, path: {model}}}\ncluster: {{nodes: {nodes}, gpus_per_node: 1, wait_s: 90}}\n"
    )
    return [sys.executable, "-m", "raylaunch.cli", "weights", words[0], str(launch), *words[1:]]


def start(
    hosts: Islands, model: Path, *words: str, endpoint: str = NOWHERE, nodes: int = 3, token: str = ""
) -> "subprocess.Popen[str]":
    """The same on the head."""
    command = write_command(hosts, model, *words, nodes=nodes)
    return hosts.run(hosts.islands[0], command, HF_ENDPOINT=endpoint, HF_TOKEN=token)


def run(
    hosts: Islands, model: Path, *words: str, endpoint: str = NOWHERE, nodes: int = 3, token: str = ""
) -> tuple[int, str]:
    """The same to its end: exit status and output."""
    process = start(hosts, model, *words, endpoint=endpoint, nodes=nodes, token=token)
    text, _ = process.communicate(timeout=_DEADLINE_S)
    return process.returncode, text


def pull(hosts: Islands, model: Path, *words: str, endpoint: str = NOWHERE) -> str:
    """A pull that must end well."""
    status, text = run(hosts, model, "pull", *words, endpoint=endpoint)
    assert status == 0, text
    return text


def read_all(island: Island, folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in island.find(folder).glob("[!.]*")}


def assert_whole(hosts: Islands, model: Path, hub: Hub, *, without: Island | None = None) -> None:
    """Every host has the same files, the same manifest, and nothing beside them but a lock."""
    manifests = set()
    for island in hosts.islands:
        if island is not without:
            assert read_all(island, model) == wanted_of(hub)
            manifests.add((island.find(model) / MANIFEST).read_bytes())
            assert {path.name for path in island.find(hosts.data).iterdir()} <= {model.name, f"{model.name}.lock"}
    assert len(manifests) == 1


def measure(island: Island, model: Path) -> int:
    """Bytes of the model on a host, under way or whole."""
    total = 0
    for folder in (model, model.with_name(f"{model.name}.download")):
        for path in island.find(folder).glob("[!.]*"):
            with contextlib.suppress(FileNotFoundError):
                total += path.stat().st_size
    return total


def wait_until(condition: Callable[[], bool], process: "subprocess.Popen[str] | None" = None) -> None:
    until = time.monotonic() + _DEADLINE_S
    while not condition() and (process is None or process.poll() is None):
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.005)


def kill_porter(island: Island) -> None:
    """Kill the task that moves the files."""
    for pid in island.list_pids():
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::Porter"):
                os.kill(pid, signal.SIGKILL)


# ---- the whole way


def test_each_byte_comes_from_the_hub_once(hosts: Islands, hub: Hub, model: Path) -> None:
    text = pull(hosts, model, "--json", endpoint=hub.url)
    assert_whole(hosts, model, hub)
    size = sum(len(body) for body in wanted_of(hub).values())
    assert hub.count_sent() == size
    result = json.loads(text[text.index("{") :])
    assert (result["from_hub_bytes"], result["from_peers_bytes"]) == (size, 2 * size)
    asked = len(hub.requests)
    assert "nothing had to move" in pull(hosts, model, endpoint=hub.url)
    assert len(hub.requests) == asked
    status, text = run(hosts, model, "check")
    assert status == 0, text
    assert "is whole on 3 nodes" in text
    status, text = run(hosts, model, "rm", "--yes")
    assert status == 0, text
    assert all(list(island.find(hosts.data).iterdir()) == [] for island in hosts.islands)


def test_nodes_fetch_different_files(hosts: Islands, hub: Hub, model: Path) -> None:
    """Both shards are under way at once, asked for by different nodes."""
    hub.pace_bytes_s = 20e6
    process = start(hosts, model, "pull", endpoint=hub.url)
    wait_until(lambda: all(hub.asked_for(name) for name in SHARDS), process)
    assert process.poll() is None
    assert hub.count_sent() < sum(len(hub.files[name]) for name in SHARDS)
    text, _ = process.communicate(timeout=_DEADLINE_S)
    assert process.returncode == 0, text
    assert_whole(hosts, model, hub)


def test_two_pulls_at_once_ask_once(hosts: Islands, hub: Hub, model: Path) -> None:
    both = [start(hosts, model, "pull", endpoint=hub.url) for _ in range(2)]
    texts = [process.communicate(timeout=_DEADLINE_S)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], texts
    assert hub.count_sent() == sum(len(body) for body in wanted_of(hub).values())
    assert_whole(hosts, model, hub)


def test_folder_filled_by_hand_is_a_source(hosts: Islands, hub: Hub, model: Path) -> None:
    """No hub, no manifest: a folder that somebody copied to one host spreads from there."""
    place = hosts.islands[1].find(model)
    place.mkdir()
    for name, body in wanted_of(hub).items():
        (place / name).write_bytes(body)
    assert f"taking the folder on {hosts.islands[1].ip}" in pull(hosts, model)
    assert_whole(hosts, model, hub)


def test_refusals_are_one_sentence_with_where_to_ask(hosts: Islands, hub: Hub, model: Path) -> None:
    """Gated, a revision and a repo that are not there, a token that is none: told once, not by each node."""

    def is_told(sentence: str, fix: str, *words: str, token: str = "") -> None:
        status, text = run(hosts, model, "pull", *words, endpoint=hub.url, token=token)
        assert status == 1, text
        assert text.count(sentence) == 1, text
        assert fix in text.replace("\n", " ")
        assert "Traceback" not in text

    is_told(f"{REPO} has no revision v9", f"{hub.url}/{REPO}/commits/main", "--set", "model.revision=v9")
    is_told("has no model somebody/typo (404)", "check the spelling", "--set", "model.repo=somebody/typo")
    hub.refuse_files = (403, "GatedRepo")
    is_told(f"{REPO} is gated", f"accept its terms at {hub.url}/{REPO}")
    hub.refuse_all = (401, "")
    is_told("refuses the token in HF_TOKEN (401)", f"{hub.url}/settings/tokens", token="hf_no")


def run_on_terminal(hosts: Islands, command: list[str], hub: Hub, answer: str = "") -> tuple[int, str]:
    """A command on the head with a terminal of 40 x 200: exit status, and all that was drawn."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 200, 0, 0))
    process = subprocess.Popen(
        hosts.islands[0].command(command), stdin=its, stdout=its, stderr=its, start_new_session=True,
        env=os.environ | {"RAY_ADDRESS": hosts.address, "HF_ENDPOINT": hub.url, "TERM": "xterm"},
    )  # fmt: skip
    os.close(its)
    os.write(ours, answer.encode())
    drawn = bytearray()
    with contextlib.suppress(OSError):  # EIO: the other side is closed
        while data := os.read(ours, 1 << 16):
            drawn += data
    os.close(ours)
    return process.wait(_DEADLINE_S), drawn.decode()


_OFFER = """
import sys
from pathlib import Path
from raylaunch import cluster
from raylaunch.checks.findings import Finding
from raylaunch.config import load
from raylaunch.weights.offer import offer_pull
cluster.join(sys.argv[1], env_vars={})
found = Finding("10.91.7.2", "model folder is not there", "raylaunch weights pull LAUNCH.yaml")
print("pulled:", offer_pull(load(Path(sys.argv[2]), environ={}), [found]))
"""
"""What `serve` does with its findings."""


@pytest.mark.parametrize("answer", ["n", "y"])
def test_serve_offers_to_pull(hosts: Islands, hub: Hub, model: Path, answer: str) -> None:
    """Asked on a terminal: the model comes with "y", and nothing happens with "n"."""
    launch = write_command(hosts, model, "pull")[5]
    command = [sys.executable, "-c", _OFFER, hosts.address, launch]
    status, drawn = run_on_terminal(hosts, command, hub, f"{answer}\n")
    assert status == 0, drawn
    assert f"Pull {REPO} to every node now?" in drawn
    assert f"pulled: {answer == 'y'}" in drawn
    if answer == "y":
        assert_whole(hosts, model, hub)
    else:
        assert hub.count_sent() == 0


def test_live_lines_on_a_terminal(hosts: Islands, hub: Hub, model: Path) -> None:
    """One line for each node, with bytes, rate, source and time left; drawn over, and the totals below."""
    hub.pace_bytes_s = 3e6
    status, drawn = run_on_terminal(hosts, write_command(hosts, model, "pull"), hub)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn)
    assert status == 0, text
    for other in hosts.islands:
        line = rf"{re.escape(other.ip)}: [^\r\n]*MB/s from (hub|peer|hub and peer) \| \d+ (s|min) left"
        assert re.search(line, text), text
    assert "\x1b[1A" in drawn or "\x1b[2A" in drawn  # goes back up over its own lines
    assert f"{REPO} is whole in {model} on 3 nodes" in text
    assert "GB asked of the hub" in text


# ---- damage, named and mended from a peer


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
    pull(hosts, model, "--verify")
    assert_whole(hosts, model, hub)
    assert hub.count_sent() == sent


def test_damaged_source_is_found_out_and_mended(hosts: Islands, hub: Hub, model: Path) -> None:
    """Its manifest and samples vouch for it; the hashes of those that it is sent to do not."""
    pull(hosts, model, endpoint=hub.url)
    first, _, third = (island.find(model) for island in hosts.islands)
    flip_byte(first / SHARDS[1], 5_000_003)
    (third / SHARDS[1]).unlink()
    assert f"{hosts.islands[0].ip}: {SHARDS[1]} is damaged there" in pull(hosts, model)
    assert_whole(hosts, model, hub)


# ---- things that go away, come, or are full


def test_killed_task_is_replaced(hosts: Islands, hub: Hub, model: Path) -> None:
    """The pull itself starts another and goes on."""
    hub.pace_bytes_s = 10e6
    process = start(hosts, model, "pull", endpoint=hub.url)
    wait_until(lambda: measure(hosts.islands[1], model) > 6 << 20, process)
    kill_porter(hosts.islands[1])
    text, _ = process.communicate(timeout=_DEADLINE_S)
    assert process.returncode == 0, text
    assert f"{hosts.islands[1].ip} was lost" in text
    assert_whole(hosts, model, hub)
    assert hub.count_sent() <= sum(len(body) for body in wanted_of(hub).values()) + CHUNK_BYTES


def test_lost_node_is_named_and_the_others_are_whole(hosts: Islands, hub: Hub, model: Path) -> None:
    """It takes the model from the others once it is back."""
    hub.pace_bytes_s = 10e6
    lost = hosts.islands[2]
    process = start(hosts, model, "pull", endpoint=hub.url)
    wait_until(lambda: measure(lost, model) > 4 << 20, process)
    hosts.kill_ray(lost)
    text, _ = process.communicate(timeout=_DEADLINE_S)
    assert process.returncode == 1, text
    assert f"{lost.ip} was lost on the way; 2 nodes have the model whole" in text
    assert_whole(hosts, model, hub, without=lost)
    hosts.start_ray(lost)
    pull(hosts, model)
    assert_whole(hosts, model, hub)


def test_node_that_joins_in_the_middle_gets_it_too(hosts: Islands, hub: Hub, model: Path) -> None:
    hub.pace_bytes_s = 0.2e6
    late = hosts.islands[2]
    hosts.kill_ray(late)
    hosts.wait_alive(2)
    process = start(hosts, model, "pull", endpoint=hub.url, nodes=2)
    wait_until(lambda: measure(hosts.islands[0], model) > 1 << 16, process)
    hosts.start_ray(late)
    hub.pace_bytes_s = None
    text, _ = process.communicate(timeout=_DEADLINE_S)
    assert process.returncode == 0, text
    assert_whole(hosts, model, hub)


def test_full_disk_on_one_node(hosts: Islands, hub: Hub, model: Path) -> None:
    """Told before the first byte where it shows then; told with the others whole where it fills up meanwhile."""
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
    text, _ = process.communicate(timeout=_DEADLINE_S)
    assert process.returncode == 1, text
    assert f"{victim.ip}: " in text
    assert "No space left" in text
    stuffing.unlink()
    for island in hosts.islands:
        if island is not victim:
            assert read_all(island, model) == wanted_of(hub)
    pull(hosts, model)
    assert_whole(hosts, model, hub)


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
    assert f"{victim.ip}: the model cannot be kept in {model}: Read-only" in text


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
            kill_porter(chance.choice(hosts.islands))
        elif kind == "driver":
            for pid in hosts.islands[0].list_pids():
                with contextlib.suppress(OSError):
                    if b"raylaunch.cli" in Path(f"/proc/{pid}/cmdline").read_bytes():
                        os.kill(pid, signal.SIGKILL)
            process.wait(_DEADLINE_S)
        else:
            hosts.kill_ray(victim)
            hosts.start_ray(victim)
    if process is not None:
        process.communicate(timeout=_DEADLINE_S)
    hub.pace_bytes_s = None
    pull(hosts, model, endpoint=hub.url)
    assert_whole(hosts, model, hub)
    twice = hub.count_sent() - size
    print(f"{twice:,} bytes twice for {len(kinds)} kills")
    assert twice <= len(kinds) * CHUNK_BYTES
