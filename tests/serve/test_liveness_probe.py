"""The liveness probe, against a server that answers as the test wants."""

import contextlib
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from raylaunch.base.errors import EngineError
from raylaunch.base.processes import wait_until
from raylaunch.serve.faults import EngineFault, EngineProgress
from raylaunch.serve.liveness_probe import LivenessProbe, request_completion
from tests.config import launches


class Server(ThreadingHTTPServer):
    status = 200
    requests = 0
    body = b"{}"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.paths: list[str] = []
        self.keys: list[str | None] = []


class Answer(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests += 1
        self.server.paths.append(self.path)
        self.server.keys.append(self.headers["Authorization"])
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    do_GET = do_POST

    def log_message(self, *_: object) -> None:
        """Silent."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Answer) as bound:
        threading.Thread(target=bound.serve_forever, args=(0.02,), daemon=True).start()
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


@pytest.mark.parametrize("url", ["http://[2001:db8::1]:9", "https://127.0.0.1:{port}", "http://no.such.host.invalid"])
def test_no_transport_error_ends_a_serving_engine(server: Server, tmp_path: Path, url: str) -> None:
    """No route, no TLS, no such name: reported, or a fault, and never an exception of another kind."""
    launch = launches.load(launches.write(tmp_path))
    probe = LivenessProbe(url.format(port=server.server_port), launch)
    until = time.monotonic() + 30.0
    with contextlib.suppress(EngineFault):
        while time.monotonic() < until and not probe._reported:
            probe.update(EngineProgress(time.monotonic()), 0.01)
            time.sleep(0.01)
    assert time.monotonic() < until


@pytest.mark.parametrize("body", [b"[1]", b"<html>", b"\xff\xfe", b""])
def test_an_answer_that_is_no_object_is_no_completion(server: Server, tmp_path: Path, body: bytes) -> None:
    server.body = body
    launch = launches.load(launches.write(tmp_path))
    with pytest.raises(EngineError, match="no JSON object"):
        request_completion(f"http://127.0.0.1:{server.server_port}", launch, lambda: True).result(30)


@pytest.mark.parametrize(
    ("task", "path"),
    [
        ("generate", "/v1/completions"), ("embed", "/v1/embeddings"), ("classify", "/classify"), ("score", "/score"),
        ("token_embed", "/pooling"), ("plugin", "/health"),
    ],
)  # fmt: skip
def test_each_kind_of_model_is_asked_what_it_answers(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str, path: str
) -> None:
    """With the key of vLLM's own variable, and past a proxy that is not there."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    launch = launches.load(launches.write(tmp_path), VLLM_API_KEY="sk-1")
    url = f"http://127.0.0.1:{server.server_port}"
    assert request_completion(url, launch, lambda: True, task).result(30) >= 0
    assert (server.paths, server.keys) == ([path], ["Bearer sk-1"])


def test_a_rejected_key_is_reported_and_ends_nothing(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.status = 401
    probe = LivenessProbe(f"http://127.0.0.1:{server.server_port}", launches.load(launches.write(tmp_path)))
    assert wait_until(lambda: probe.update(EngineProgress(0.0), 0.01) or server.requests > 3, 30.0)
    assert capsys.readouterr().err.count("no liveness probe") == 1
