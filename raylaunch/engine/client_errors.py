"""The cause of an engine's death for its clients, in the error format of each API (vLLM 0.25 to 0.33).

vLLM alone answers before the cause is known, cuts streams of /v1/responses off, and ends streams of /v1/messages with
its own parser's complaint. So its errors wait here for the supervisor's FailClients, and `ClientErrors`, a middleware
of vLLM's app, writes the events that vLLM does not write.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from vllm.v1.engine.exceptions import EngineDeadError

_Message = MutableMapping[str, Any]
_Send = Callable[[_Message], Awaitable[None]]
_Receive = Callable[[], Awaitable[_Message]]
_CAUSE_S = 5.0
"""Longest wait for the cause: the supervisor has it after two seconds at most (serve/faults.py)."""
MIDDLEWARE = f"{__name__}.ClientErrors"
"""For vLLM's option `middleware`."""


class EngineDeath:
    """The end of the engine that this process serves, and why its clients get an error."""

    why = ""
    """Empty while it is unknown."""

    def hold_errors(self, client: Any) -> None:
        """Let the errors that vLLM's AsyncLLM `client` has for its requests wait for `fail`."""
        processor = client.output_processor
        self._propagate = processor.propagate_error

        def hold(error: Exception) -> None:
            asyncio.get_running_loop().call_later(_CAUSE_S, self.fail, str(error))

        processor.propagate_error = hold

    def fail(self, why: str) -> None:
        """Give every waiting request its error; only the first call counts."""
        if not self.why:
            self.why = why
            error = EngineDeadError()
            error.args = (why,)
            self._propagate(error)


DEATH = EngineDeath()
"""Of this process: vLLM makes the middleware, and passes it nothing."""


class ClientErrors:
    """Ends the event streams of requests that the engine's death ended, as their API does."""

    def __init__(self, app: Callable[[MutableMapping[str, Any], _Receive, _Send], Awaitable[None]]) -> None:
        """Wrap the ASGI application `app`."""
        self._app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: _Receive, send: _Send) -> None:
        """Answer one request."""
        stream = _EventStream(send, str(scope.get("path", "")))
        try:
            await self._app(scope, receive, stream.send)
        except (EngineDeadError, RuntimeError):  # Starlette's own, of one that comes after the first byte
            if not (stream.is_open and DEATH.why):
                raise
            await stream.end()


class _EventStream:
    """One answer on its way out."""

    def __init__(self, send: _Send, path: str) -> None:
        self._send = send
        self._is_messages = path.endswith("/v1/messages")
        self._events = 0
        self.is_open = False
        """Whether it is a stream of events that has begun."""

    async def send(self, message: _Message) -> None:
        if message["type"] == "http.response.start":
            kinds = [value for name, value in message["headers"] if name.lower() == b"content-type"]
            self.is_open = any(kind.startswith(b"text/event-stream") for kind in kinds)
        elif self.is_open and (body := bytes(message.get("body", b""))):
            self._events += 1
            if self._is_messages and DEATH.why and body.startswith(b"event: error"):
                message = {**message, "body": make_event(self._events - 1, is_messages=True)}
        await self._send(message)

    async def end(self) -> None:
        """Send the error event of an answer that broke off, and end it."""
        event = make_event(self._events, is_messages=self._is_messages)
        await self._send({"type": "http.response.body", "body": event, "more_body": False})


def make_event(number: int, *, is_messages: bool) -> bytes:
    """The error event of Anthropic's Messages API, or of OpenAI's Responses API with its sequence number."""
    if is_messages:
        event: dict[str, object] = {"type": "error", "error": {"type": "api_error", "message": DEATH.why}}
    else:
        event = {"type": "error", "code": "server_error", "message": DEATH.why, "param": None}
        event["sequence_number"] = number
    return f"event: error\ndata: {json.dumps(event)}\n\n".encode()
