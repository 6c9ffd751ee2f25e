"""A model over three hosts, each with a network and a file system of its own, end to end."""

import contextlib
import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import termios
from pathlib import Path

import pytest

from benchmarks.islands import Islands, islands
from tests.hub_server import Hub

from .conftest import REPO, SHARDS, wanted_of
from .fleet import DEADLINE_S, assert_whole, pull, run, start, wait_until, write_command

pytestmark = [pytest.mark.ray, pytest.mark.root]


def test_hosts_can_follow_others_at_once(tmp_path: Path) -> None:
    """The kernel is slow to take a namespace's links away. The first test here: from the next one on, hosts are up."""
    for _ in range(3):
        with islands(0, tmp_path / "data", bare=2, is_reachable=True) as made:
            assert len(made.islands) == 2


def test_each_byte_comes_from_the_hub_once(hosts: Islands, hub: Hub, model: Path) -> None:
    text = pull(hosts, model, "--json", endpoint=hub.url)
    assert_whole(hosts, model, hub)
    size = sum(len(body) for body in wanted_of(hub).values())
    assert hub.count_sent() == size
    result = json.loads(text[text.index("{") :])
    assert (result["from_hub_bytes"], result["from_peers_bytes"]) == (size, 2 * size)
    asked = len(hub.requests)
    assert "nothing to transfer" in pull(hosts, model, endpoint=hub.url)
    assert len(hub.requests) == asked
    status, text = run(hosts, model, "check")
    assert status == 0, text
    assert "is complete on 3 nodes" in text
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
    text, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, text
    assert_whole(hosts, model, hub)


def test_two_pulls_at_once_ask_once(hosts: Islands, hub: Hub, model: Path) -> None:
    both = [start(hosts, model, "pull", endpoint=hub.url) for _ in range(2)]
    texts = [process.communicate(timeout=DEADLINE_S)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], texts
    assert hub.count_sent() == sum(len(body) for body in wanted_of(hub).values())
    assert_whole(hosts, model, hub)


def test_folder_filled_by_hand_is_a_source(hosts: Islands, hub: Hub, model: Path) -> None:
    """No hub, no manifest: a folder that was copied to one host by hand is the source."""
    place = hosts.islands[1].find(model)
    place.mkdir()
    for name, body in wanted_of(hub).items():
        (place / name).write_bytes(body)
    assert f"using the folder on {hosts.islands[1].ip}" in pull(hosts, model)
    assert_whole(hosts, model, hub)


def test_refusals_are_one_sentence_with_where_to_ask(hosts: Islands, hub: Hub, model: Path) -> None:
    """Gated, an invalid token: reported once, not by each node. The others are in test_fetch_local.py."""

    def is_reported(sentence: str, fix: str, token: str = "") -> None:
        status, text = run(hosts, model, "pull", endpoint=hub.url, token=token)
        assert status == 1, text
        assert text.count(sentence) == 1, text
        assert fix in text.replace("\n", " ")
        assert "Traceback" not in text

    hub.refuse_files = (403, "GatedRepo")
    is_reported(f"{REPO} is gated", f"accept its terms at {hub.url}/{REPO}")
    hub.refuse_all = (401, "")
    is_reported("refuses the token in HF_TOKEN (401)", f"{hub.url}/settings/tokens", token="hf_no")


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
    return process.wait(DEADLINE_S), drawn.decode()


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
    assert f"{REPO} is complete in {model} on 3 nodes" in text
    assert re.search(r" \d\.\d\d from the hub, ", text)
