"""Clients with their default retries get their answer whenever they come during a start; lengths are remembered."""

import asyncio
import http.server
import json
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raylaunch.serve.listener import Listener, listen
from raylaunch.serve.start_forecast import StartForecast
from raylaunch.serve.unready_answer import Notice

CHAT = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}]}
MESSAGE = {"type": "message", "role": "assistant", "content": [{"type": "text", "text": "hi"}]}


class Engine(http.server.BaseHTTPRequestHandler):
    """Answers both APIs, as an engine that is ready does."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        body = json.dumps(MESSAGE if self.path == "/v1/messages" else CHAT).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


class Service:
    """The real listener, and an engine behind the same socket whose starts take a length of virtual time.

    That time passes while a client waits for its next try, or the listener holds a request; nothing else takes any.
    """

    def __init__(self, listening: socket.socket) -> None:
        self.now_s = self.length_s = 0.0
        self.forecast = StartForecast(Path("/dev/null"), kind="starting")
        self._listening = listening
        self._server = http.server.HTTPServer(("", 0), Engine, bind_and_activate=False)
        self._server.socket.close()
        self._server.socket = listening
        self._lock, self._is_ready, self._is_over = threading.Lock(), False, False
        self.listener = Listener(listening, self._make_notice, sleep=self._hold)
        self._thread = threading.Thread(target=self._run_engine)
        self._thread.start()

    def _make_notice(self) -> Notice:
        return Notice("starting", "starting", self.forecast.retry_after_s(), "")

    def begin(self, length_s: float, forecast: StartForecast, now_s: float) -> None:
        """A start that will take so long, of which so much has passed."""
        with self._lock:
            self._is_ready = False
        self.now_s, self.length_s, self.forecast = 0.0, length_s, forecast
        forecast.take_launch("launch")
        forecast.begin("starting")
        self.now_s = now_s
        self.listener.resume()

    def pass_time(self, seconds: float) -> None:
        """A client sleeps."""
        self.now_s += seconds
        if self.now_s >= self.length_s:
            self._become_ready()

    async def _hold(self, seconds: float) -> None:
        self.now_s = min(self.now_s + seconds, self.length_s)
        if self.now_s == self.length_s:
            threading.Thread(target=self._become_ready).start()
            await asyncio.Event().wait()  # the listener cancels it

    def _become_ready(self) -> None:
        with self._lock:
            self._is_ready = True
        self.listener.pause()

    def _run_engine(self) -> None:
        while not self._is_over:
            select.select([self._listening], [], [], 0.01)
            with self._lock:
                if self._is_ready:
                    self._server._handle_request_noblock()  # type: ignore[attr-defined]

    def close(self) -> None:
        self._is_over = True
        self._thread.join()
        self.listener.close()


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    with listen("127.0.0.1", 0) as listening:
        served = Service(listening)
        clock = SimpleNamespace(**vars(time) | {"sleep": served.pass_time})
        monkeypatch.setattr("openai._base_client.time", clock)
        monkeypatch.setattr("anthropic._base_client.time", clock)
        yield served
        served.close()


def make_calls(port: int) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """One call of each client, with the retries that it makes by default."""
    import anthropic
    import openai

    asks_openai = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none")
    asks_anthropic = anthropic.Anthropic(base_url=f"http://127.0.0.1:{port}", api_key="none")
    return (
        lambda: asks_openai.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}]),
        lambda: asks_anthropic.messages.create(model="m", max_tokens=4, messages=[{"role": "user", "content": "hi"}]),
    )


@pytest.mark.no_cover  # hundreds of times what tests/serve/test_listener.py runs
@pytest.mark.parametrize(
    ("length_s", "last_s", "step_s"),
    [
        (26, None, 1),
        (45, None, 1),
        (145, None, 7),
        (26, 26, 1),
        (45, 45, 1),
        (145, 145, 7),
        (145, 26, 7),
        (145, 120, 7),
        pytest.param(145, None, 1, marks=pytest.mark.slow),
        pytest.param(145, 145, 1, marks=pytest.mark.slow),
    ],
)
def test_a_client_that_comes_at_any_second_of_a_start_is_answered(
    service: Service, tmp_path: Path, length_s: int, last_s: int | None, step_s: int
) -> None:
    """Either client at each second, both where no start was measured: two retries are enough."""
    calls = make_calls(service.listener.port)
    for second in range(0, length_s, step_s):
        for call in calls if last_s is None else calls[second % 2 :][:1]:
            file = tmp_path / "starts.json"
            file.write_text(json.dumps({"launch": {"starting": last_s}} if last_s else {}))
            service.begin(length_s, StartForecast(file, kind="", clock=lambda: service.now_s), second)
            call()
            assert length_s <= service.now_s <= max(length_s, last_s or 0) + 60  # seconds of the virtual clock


def test_the_last_start_of_a_launch_is_remembered(tmp_path: Path) -> None:
    now = [0.0]
    file = tmp_path / "starts.json"

    def forecast(key: str) -> StartForecast:
        found = StartForecast(file, kind="starting", clock=lambda: now[0])
        found.take_launch(key)
        return found

    first = forecast("a")
    now[0] += 100.0
    first.note_ready()
    first.begin("restarting")
    assert first.retry_after_s() == 59  # of its first start, as no restart has been measured
    now[0] += 20.0
    first.note_ready()
    assert file.stat().st_mode & 0o077 == 0
    again = forecast("a")
    now[0] += 90.0
    assert again.retry_after_s() == 20
    again.begin("restarting")
    assert again.retry_after_s() == 22
    assert forecast("b").retry_after_s() == 44
    file.write_text("[1")
    assert forecast("a").retry_after_s() == 44


def test_an_overrun_start_is_asked_for_less_and_less_often(tmp_path: Path) -> None:
    """Never again after one second, and never after so long that clients take the header for none."""
    now = [0.0]
    forecast = StartForecast(tmp_path / "starts.json", kind="starting", clock=lambda: now[0])
    waits = []
    for now[0] in range(40, 1000):
        waits.append(forecast.retry_after_s())
    assert waits == sorted(waits)
    assert (waits[0], waits[-1]) == (27, 59)
