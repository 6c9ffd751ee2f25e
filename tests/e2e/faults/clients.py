"""Clients of a service under fault: requests in flight, each with when and how it ended, and a hammer on the port."""

import http.client
import json
import socket
import threading
import time
from dataclasses import dataclass, field

REQUEST_DEADLINE_S = 120.0
LONG_ENOUGH_TOKENS = 900
"""More than any fault leaves time for."""
NO_JSON = "not OpenAI's format"


@dataclass
class Sent:
    """One request that was under way, and how it ended."""

    stream: bool
    began: float
    ended: float | None = None
    status: int | None = None
    tokens: int = 0
    error: str | None = None
    """What the client received: the error's message, or "connection closed"."""
    first_token: threading.Event = field(default_factory=threading.Event)


class Clients:
    """Requests in flight from threads of their own, streaming and not."""

    def __init__(self, url: str, model: str, *, deadline_s: float = REQUEST_DEADLINE_S) -> None:
        self.deadline_s = deadline_s
        self.host, _, port = url.removeprefix("http://").partition(":")
        self.port, self.model = int(port), model
        self.sent: list[Sent] = []
        self._threads: list[threading.Thread] = []

    def start(self, *, streaming: int, plain: int, max_tokens: int = LONG_ENOUGH_TOKENS) -> None:
        """Send requests, and return once every streaming one has had a token."""
        for number in range(streaming + plain):
            sent = Sent(stream=number < streaming, began=time.monotonic())
            thread = threading.Thread(target=self._ask, args=(sent, number, max_tokens), daemon=True)
            self.sent.append(sent)
            self._threads.append(thread)
            thread.start()
        for sent in self.sent:
            if sent.stream:
                assert sent.first_token.wait(REQUEST_DEADLINE_S), "no token came before the fault"

    def _ask(self, sent: Sent, number: int, max_tokens: int) -> None:
        body = {
            "model": self.model, "prompt": f"{number} Hello", "max_tokens": max_tokens, "temperature": 0,
            "ignore_eos": True, "stream": sent.stream,
        }  # fmt: skip
        if sent.stream:
            body["stream_options"] = {"include_usage": True}
        connection = http.client.HTTPConnection(self.host, self.port, timeout=self.deadline_s)
        try:
            connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            sent.status = response.status
            if sent.stream and response.status == 200:
                self._read_stream(response, sent)
            else:
                self._read_whole(response, sent)
        except TimeoutError:
            sent.error = "TIMED OUT"
        except (OSError, http.client.HTTPException) as error:
            sent.error = f"connection closed ({type(error).__name__})"
        finally:
            sent.first_token.set()
            sent.ended = time.monotonic()
            connection.close()

    @staticmethod
    def _read_whole(response: http.client.HTTPResponse, sent: Sent) -> None:
        body = response.read()
        try:
            answer = json.loads(body)
        except json.JSONDecodeError:
            sent.error = f"{NO_JSON}: {body[:80]!r}"
            return
        if response.status == 200:
            sent.tokens = answer["usage"]["completion_tokens"]
        else:
            sent.error = answer["error"]["message"]

    @staticmethod
    def _read_stream(response: http.client.HTTPResponse, sent: Sent) -> None:
        done = False
        for raw in response:
            line = raw.decode().strip()
            if line == "data: [DONE]":
                done = True
            elif line.startswith("data: "):
                event = json.loads(line.removeprefix("data: "))
                if "error" in event:
                    sent.error = event["error"]["message"]
                elif usage := event.get("usage"):
                    sent.tokens = usage["completion_tokens"]  # an event may hold several
                else:
                    sent.tokens += 1
                    sent.first_token.set()
        if not done and sent.error is None:
            sent.error = "connection closed (stream broke off)"

    def wait(self, deadline_s: float = REQUEST_DEADLINE_S) -> float:
        """Wait until every request has ended; the moment at which the last one did."""
        until = time.monotonic() + deadline_s
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        assert not any(thread.is_alive() for thread in self._threads), "a client hangs"
        return max(sent.ended or 0.0 for sent in self.sent)

    def describe(self) -> str:
        """How they ended, counted."""
        counts: dict[str, int] = {}
        for sent in self.sent:
            kind = "stream" if sent.stream else "plain"
            how = f"{kind}: HTTP {sent.status}, {sent.error or 'complete'}"
            counts[how] = counts.get(how, 0) + 1
        return "; ".join(f"{count} x {how}" for how, count in sorted(counts.items()))


class Hammer:
    """Opens a new connection again and again, and asks for /health on it: none may be refused."""

    def __init__(self, url: str, every_s: float = 0.02) -> None:
        self.host, _, port = url.removeprefix("http://").partition(":")
        self.port, self.every_s = int(port), every_s
        self.statuses: dict[int, int] = {}
        self.refused: list[str] = []
        self.unanswered: list[str] = []
        """Connected, and then closed without an answer or left without one."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._stop.wait(self.every_s):
            connection = http.client.HTTPConnection(self.host, self.port, timeout=30)
            try:
                connection.connect()
            except OSError as error:
                self.refused.append(f"{time.strftime('%X')} {error}")
                continue
            try:
                connection.request("GET", "/health")
                status = connection.getresponse().status
                self.statuses[status] = self.statuses.get(status, 0) + 1
            except (OSError, http.client.HTTPException) as error:
                self.unanswered.append(f"{time.strftime('%X')} {type(error).__name__}: {error}")
            finally:
                connection.close()

    def __enter__(self) -> "Hammer":
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:  # the port is there from serve's first second on, not before it
            with socket.socket() as probe:
                if probe.connect_ex((self.host, self.port)) == 0:
                    break
            time.sleep(0.01)
        self._thread.start()
        return self

    def pause(self) -> None:
        """Hammer no more: the service is about to end."""
        self._stop.set()
        self._thread.join()

    def __exit__(self, *_: object) -> None:
        self.pause()
