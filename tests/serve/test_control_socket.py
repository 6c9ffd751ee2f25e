"""The control socket: a launch goes in, answers come out; its owner alone may knock."""

import socket
import stat
import threading
from pathlib import Path

import pytest

from raylaunch.base.errors import ServiceError
from raylaunch.serve import control_socket


def answer(server: control_socket.Control, *lines: dict[str, str]) -> list[str]:
    """Take one request in a thread, as the supervisor's main thread does, and answer it."""
    seen: list[str] = []

    def run() -> None:
        request = server.requests.get()
        seen.append(request.launch)
        for line in lines:
            request.answer(**line)
        request.close()

    threading.Thread(target=run, daemon=True).start()
    return seen


def test_a_launch_is_handed_over_and_followed(tmp_path: Path) -> None:
    """Also from a home whose path is longer than a socket's may be."""
    folder = tmp_path / ("deep" * 20) / ("deeper" * 20)
    folder.mkdir(parents=True)
    server = control_socket.Control(folder)
    assert stat.S_IMODE((folder / "control.sock").stat().st_mode) == 0o600
    told: list[str] = []
    seen = answer(server, {"say": "checking"}, {"done": "served"})
    assert control_socket.ask(folder, "{}", report=told.append, timeout_s=10) == "served"
    assert (seen, told) == (["{}"], ["checking"])
    answer(server, {"error": "wrong; the old engine serves on", "fix": "mend it"})
    with pytest.raises(ServiceError, match="old engine serves on") as caught:
        control_socket.ask(folder, "{}", report=told.append, timeout_s=10)
    assert caught.value.fix == "mend it"
    server.close()
    assert not (folder / "control.sock").exists()
    with pytest.raises(ServiceError, match="cannot be reached"):
        control_socket.ask(folder, "{}", report=told.append, timeout_s=10)


def test_nonsense_is_not_taken(tmp_path: Path) -> None:
    """A line that is no request is dropped, and the next one is served."""
    server = control_socket.Control(tmp_path)
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(str(tmp_path / "control.sock"))
        stranger.sendall(b"hello\n")
        assert stranger.recv(16) == b""
    seen = answer(server, {"done": "ok"})
    assert control_socket.ask(tmp_path, "{}", report=print, timeout_s=10) == "ok"
    assert seen == ["{}"]
    server.close()
