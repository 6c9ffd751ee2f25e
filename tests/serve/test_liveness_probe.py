"""The liveness probe, against a server that answers as the test wants."""

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from raylaunch.base.errors import EngineError
from raylaunch.base.processes import wait_until
from raylaunch.serve.faults import EngineFault, EngineProgress
from raylaunch.serve.liveness_probe import LivenessProbe, request_completion
from tests.config import launches


class Server(ThreadingHTTPServer):
    status = 200
    requests = 0


class Answer(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests += 1
        self.send_response(self.server.status)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        """Silent."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Answer) as bound:
        threading.Thread(target=bound.serve_forever, daemon=True).start()
        yield bound
        bound.shutdown()


def test_an_idle_engine_is_probed(server: Server, tmp_path: Path) -> None:
    """Completions raise nothing; an error of the server is a fault."""
    launch = launches.load(launches.write(tmp_path))
    probe = LivenessProbe(f"http://127.0.0.1:{server.server_port}", launch)
    progress = EngineProgress(time.monotonic())

    def update() -> bool:
        probe.update(progress, 0.05)
        return server.requests >= 3

    assert wait_until(update, 30.0)
    server.status = 500
    with pytest.raises(EngineFault, match=r"an idle engine failed its liveness probe: .* HTTP 500"):
        wait_until(lambda: update() and False, 30.0)


def test_no_probe_where_the_launch_wants_none(server: Server, tmp_path: Path) -> None:
    probe = LivenessProbe(f"http://127.0.0.1:{server.server_port}", launches.load(launches.write(tmp_path)))
    assert not wait_until(lambda: probe.update(EngineProgress(0.0), 0.0) or server.requests > 0, 0.5)


def test_a_completion_of_a_dead_engine_fails(tmp_path: Path) -> None:
    launch = launches.load(launches.write(tmp_path))
    with pytest.raises(EngineError, match="died during its first completion"):
        request_completion("http://127.0.0.1:1", launch, lambda: False).result(30)
