"""The listener's answer to one request: the metrics, what a browser asks, or a 503 with what is happening."""

import hmac
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

from raylaunch.config.launch import LaunchConfig
from raylaunch.serve.cors import CorsRules


@dataclass(frozen=True)
class Notice:
    """What the listener answers."""

    state: str
    text: str
    """What is happening, for people: "restarting: waiting for GPUs, 8 of 16"."""
    retry_after_s: int | None
    """None: the service stops, and no engine will accept."""
    metrics: str
    """The service's metrics in Prometheus' text format."""


@dataclass(frozen=True)
class AnswerRules:
    """What the launch's `server:` block says about answers."""

    api_keys: tuple[str, ...] = ()
    """Without keys every client reads what happens; with keys only their holders do, others read the state."""
    cors: CorsRules = field(default_factory=CorsRules)

    @classmethod
    def of_launch(cls, launch: LaunchConfig) -> "AnswerRules":
        """Those of a launch."""
        return cls(launch.api_keys, CorsRules.of_server(launch.server))


@dataclass(frozen=True)
class RequestHead:
    """The first lines of a request."""

    method: str
    path: str
    headers: Mapping[str, str]
    """By lower-case name."""

    @classmethod
    def parse(cls, head: str) -> "RequestHead":
        """The head up to its empty line."""
        first, *rest = re.split(r"[\r\n]+", head)  # a lone CR or LF must not get into a line of the answer
        method, _, target = first.partition(" ")
        lines = (line.partition(":") for line in rest)
        headers = {name.strip().lower(): value.strip() for name, _, value in lines}
        return cls(method, target.partition(" ")[0].partition("?")[0], headers)

    @property
    def is_retry(self) -> bool:
        """Whether an official client (OpenAI's and Anthropic's send this header) tries for the second time or more."""
        return self.method in ("GET", "POST") and self.headers.get("x-stainless-retry-count", "0") != "0"

    @property
    def patience_s(self) -> float:
        """How long an official client waits for an answer, which it says; without end where it does not."""
        try:
            return float(self.headers.get("x-stainless-read-timeout") or self.headers["x-stainless-timeout"])
        except (KeyError, ValueError):
            return math.inf

    def has_key(self, api_keys: tuple[str, ...]) -> bool:
        """Whether it carries one of these API keys."""
        scheme, _, given = self.headers.get("authorization", "").partition(" ")
        found = [hmac.compare_digest(given.encode("latin-1"), key.encode()) for key in api_keys]
        return scheme.lower() == "bearer" and any(found)


def make_answer(request: RequestHead, notice: Notice, rules: AnswerRules) -> bytes:
    """The answer while no engine is ready; a 503 has the format of the API that is asked."""
    if rules.cors.is_preflight(request.method, request.headers):
        refused, lines = rules.cors.judge_preflight(request.headers)
        status = HTTPStatus.BAD_REQUEST if refused else HTTPStatus.OK
        text = f"Disallowed CORS {', '.join(refused)}" if refused else "OK"
        return _pack(request, status, "text/plain; charset=utf-8", text, lines)
    lines = rules.cors.list_lines(request.headers)
    if request.path in ("/metrics", "/metrics/"):
        return _pack(request, HTTPStatus.OK, "text/plain; version=0.0.4; charset=utf-8", notice.metrics, lines)
    status = HTTPStatus.SERVICE_UNAVAILABLE
    text = notice.text if not rules.api_keys or request.has_key(rules.api_keys) else notice.state
    body: dict[str, object] = {"error": {"message": text, "type": status.phrase, "param": None, "code": status.value}}
    if request.path.endswith("/v1/messages"):
        body = {"type": "error", "error": {"type": "overloaded_error", "message": text}}
    if notice.retry_after_s is not None:
        lines.append(f"Retry-After: {notice.retry_after_s}")
    return _pack(request, status, "application/json", json.dumps(body), lines)


def _pack(request: RequestHead, status: HTTPStatus, kind: str, body: str, more: list[str]) -> bytes:
    content = body.encode()
    lines = [f"HTTP/1.1 {status.value} {status.phrase}", f"Content-Type: {kind}", f"Content-Length: {len(content)}"]
    lines += ["Connection: close", *more, "", ""]
    return "\r\n".join(lines).encode("latin-1") + (b"" if request.method == "HEAD" else content)
