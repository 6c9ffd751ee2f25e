"""The part that runs on hosts, run here: real listeners, real calls, on loopback."""

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raylaunch.provision.doctor import network_probe

Ask = Callable[[dict[str, Any]], dict[str, Any]]


@pytest.fixture
def ask() -> Iterator[Ask]:
    """Send an order as doctor does, to the text of the module and not to the module."""
    process = subprocess.Popen(
        [sys.executable, "-I", "-u", "-c", Path(network_probe.__file__).read_text()],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    stdin, stdout = process.stdin, process.stdout
    assert stdin is not None
    assert stdout is not None

    def send(order: dict[str, Any]) -> dict[str, Any]:
        stdin.write(json.dumps(order) + "\n")
        stdin.flush()
        answer: dict[str, Any] = json.loads(stdout.readline())
        return answer

    yield send
    stdin.close()
    assert process.wait(timeout=20) == 0
    stdout.close()


@pytest.mark.parametrize("address", ["127.0.0.1", "", "203.0.113.9"])
def test_listens_where_nobody_does(ask: Ask, address: str) -> None:
    """A port that is free, one that is taken; an address of this machine, all of them, or one forwarded to it."""
    with socket.socket() as holder, socket.socket() as free:
        holder.bind(("", 0))
        holder.listen()
        free.bind(("127.0.0.1", 0))
        taken, port = holder.getsockname()[1], free.getsockname()[1]
        free.close()
        assert ask({"address": address, "ports": [taken, port]}) == {"listening": [port], "taken": [taken]}
        answer = ask({"targets": [["127.0.0.1", port], ["127.0.0.1", taken], ["127.0.0.1", 1]], "wait_s": 5})
        assert answer["results"] == ["open", "open", "refused"]


def test_names_that_do_not_resolve_are_unreachable(ask: Ask) -> None:
    assert ask({"targets": [["no-such-host.invalid", 22]], "wait_s": 1})["results"] == ["unreachable"]
