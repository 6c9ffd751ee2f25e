"""The control socket: a launch is sent, replies come back; only the service's owner may connect."""

import socket
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from raylaunch.base.errors import ServiceError
from raylaunch.config.launch import LaunchConfig
from raylaunch.serve.control_socket import ControlSocket, RestartRequest, request_restart
from tests.config import launches

Answer = Callable[[RestartRequest], None]


def answer(server: ControlSocket, *answers: Answer) -> list[LaunchConfig]:
    """Take one request in a thread, as the supervisor's main thread does, and answer it."""
    seen: list[LaunchConfig] = []

    def run() -> None:
        request = server.requests.get()
        seen.append(request.launch)
        for reply in answers:
            reply(request)

    threading.Thread(target=run, daemon=True).start()
    return seen


def test_a_launch_is_sent_and_followed(tmp_path: Path) -> None:
    """Also from a home whose path is longer than a socket's may be."""
    folder = tmp_path / ("deep" * 20) / ("deeper" * 20)
    folder.mkdir(parents=True)
    launch = launches.load(launches.write(tmp_path))
    server = ControlSocket(folder)
    assert stat.S_IMODE((folder / "control.sock").stat().st_mode) == 0o600
    reported: list[str] = []
    seen = answer(server, lambda request: request.report("checking"), lambda request: request.finish("served"))
    assert request_restart(folder, launch, report=reported.append, timeout_s=10) == "served"
    assert [one.fingerprint() for one in seen] == [launch.fingerprint()]
    assert reported == ["checking"]
    answer(server, lambda request: request.refuse("wrong; the old engine serves on", "fix it"))
    with pytest.raises(ServiceError, match="old engine serves on") as caught:
        request_restart(folder, launch, report=reported.append, timeout_s=10)
    assert caught.value.fix == "fix it"
    server.close()
    assert not (folder / "control.sock").exists()
    with pytest.raises(ServiceError, match="cannot connect to the supervisor"):
        request_restart(folder, launch, report=reported.append, timeout_s=10)


@pytest.mark.parametrize("line", [b"hello", b"{}", b"[]", b'{"sources": [], "values": {}, "path": null}'])
def test_lines_that_are_no_launch_are_dropped(tmp_path: Path, line: bytes) -> None:
    """The connection is closed, and the next request is answered."""
    launch = launches.load(launches.write(tmp_path))
    server = ControlSocket(tmp_path)
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.settimeout(10)
        stranger.connect(str(tmp_path / "control.sock"))
        stranger.sendall(line + b"\n")
        assert stranger.recv(16) == b""
    answer(server, lambda request: request.finish("ok"))
    assert request_restart(tmp_path, launch, report=print, timeout_s=10) == "ok"
    server.close()
