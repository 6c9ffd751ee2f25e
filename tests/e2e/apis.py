"""Requests to each API of a service: long ones that must end in their API's error, and calls that must all succeed."""

import contextlib
import json
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from raylaunch.base.http_client import fetch_text
from raylaunch.base.processes import wait_until
from raylaunch.engine.metrics import parse_metrics

CALLS = 60
MAX_TOKENS = 1900
_MESSAGES = [{"role": "user", "content": "Count."}]


@dataclass
class Asked:
    """A request that curl has sent."""

    path: str
    stream: bool
    process: "subprocess.Popen[str]"

    def end(self, cause: str) -> None:
        """Wait for its end: an error in its API's format that names `cause`, and curl's exit code for it."""
        text, _ = self.process.communicate(timeout=120)
        what = (
            f"{self.path}, {'stream' if self.stream else 'plain'}: curl exit {self.process.returncode}: {text[-800:]}"
        )
        assert self.process.returncode == (0 if self.stream else 22), what
        assert cause in (_read_event(self.path, text) if self.stream else _read_plain(text)), what


def ask_all(url: str, model: str) -> list[Asked]:
    """Send a request that takes long to each API, as a stream and plain; returns once the engine has all of them."""
    asked = []
    for path, body in _list_bodies(model):
        for stream in (True, False):
            content = json.dumps({"model": model, "stream": stream, "temperature": 0, "ignore_eos": True, **body})
            command = ["curl", "-sN", "--fail-with-body", "--noproxy", "*", url + path]
            command += ["-H", "Content-Type: application/json", "-d", content]
            asked.append(Asked(path, stream, subprocess.Popen(command, stdout=subprocess.PIPE, text=True)))
    assert wait_until(lambda: _count_requests(url) == len(asked), 60), _count_requests(url)
    assert [one.path for one in asked if one.process.poll() is not None] == []
    return asked


def _count_requests(url: str) -> int:
    figures = parse_metrics(fetch_text(f"{url}/metrics", 5.0) or "")
    return figures.running + figures.waiting if figures else 0


def _list_bodies(model: str) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "/v1/completions", {"prompt": "Count.", "max_tokens": MAX_TOKENS}
    yield "/v1/chat/completions", {"messages": _MESSAGES, "max_tokens": MAX_TOKENS}
    yield "/v1/responses", {"input": "Count.", "max_output_tokens": MAX_TOKENS}
    yield "/v1/messages", {"messages": _MESSAGES, "max_tokens": MAX_TOKENS}


def _read_plain(text: str) -> str:
    return str(json.loads(text)["error"]["message"])


def _read_event(path: str, text: str) -> str:
    """The message of the error event that a stream ends with."""
    events = [event.split("\n") for event in text.split("\n\n") if event]
    if path in ("/v1/completions", "/v1/chat/completions"):
        assert events.pop() == ["data: [DONE]"], text[-800:]
        return str(json.loads(events[-1][-1].removeprefix("data: "))["error"]["message"])
    assert events[-1][0] == "event: error", text[-800:]
    data = json.loads(events[-1][1].removeprefix("data: "))
    assert data["type"] == "error"
    if path == "/v1/messages":
        assert data["error"]["type"] == "api_error"
        return str(data["error"]["message"])
    before = json.loads(events[-2][1].removeprefix("data: "))
    assert data["sequence_number"] == before["sequence_number"] + 1
    return str(data["message"])


class Caller:
    """Calls a service one call after the other, with the default retries of the openai and the anthropic client."""

    def __init__(self, url: str, model: str) -> None:
        import anthropic  # here: it takes seconds, and collection of all tests would pay them
        import openai

        self.answers: list[str] = []
        self.errors: list[str] = []
        self._model = model
        self._openai = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
        self._anthropic = anthropic.Anthropic(base_url=url, auth_token="none")
        self._failures = (openai.OpenAIError, anthropic.AnthropicError)

    def run(self, over: threading.Event) -> None:
        """Call until it is over, and `CALLS` times at least."""
        while len(self.answers) + len(self.errors) < CALLS or not over.wait(0.1):
            try:
                self.answers.append(self._call(len(self.answers)))
            except self._failures as error:
                self.errors.append(repr(error))

    def _call(self, number: int) -> str:
        asked: Any = {
            "model": self._model,
            "max_tokens": 4,
            "messages": [{"role": "user", "content": f"{number} Hello"}],
        }
        if number % 2:
            return f"anthropic: {self._anthropic.messages.create(**asked).content}"
        return f"openai: {self._openai.chat.completions.create(**asked).choices[0].message.content}"


@contextlib.contextmanager
def calling(url: str, model: str) -> Iterator[Caller]:
    """Calls in the background; they have all ended when it ends."""
    caller, over = Caller(url, model), threading.Event()
    thread = threading.Thread(target=caller.run, args=(over,))
    thread.start()
    try:
        yield caller
    finally:
        over.set()
        thread.join()
