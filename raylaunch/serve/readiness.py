"""Ready means that a completion came back; then: where the time went, and what a user does next."""

import http.client
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlsplit

from raylaunch.base import tls
from raylaunch.base.errors import EngineError

_REQUEST_TIMEOUT_S = 300.0
"""A first completion compiles and warms up what start-up did not."""


@dataclass(frozen=True)
class StartupTimes:
    """Where the start-up time went, in seconds.

    `import_s` ran beside join and check, so the sum may exceed the total.
    """

    fetch_s: float
    """Seeing to the model's folder: a download where it was not there."""
    join_s: float
    check_s: float
    import_s: float
    workers_s: float
    """From the order to a ready engine, less load and profile: vLLM's workers start and import."""
    load_s: float | None
    """Slowest worker's weight loading, from vLLM's log; None where the log does not say."""
    profile_s: float | None
    """vLLM's "init engine": memory profile, KV cache, warm-up."""
    first_completion_s: float
    total_s: float

    def to_line(self) -> str:
        """One line for people."""
        parts = [
            ("fetch", self.fetch_s if self.fetch_s >= 0.1 else None),
            ("join", self.join_s),
            ("check", self.check_s),
            ("import (meanwhile)", self.import_s),
            ("workers", self.workers_s),
            ("load", self.load_s),
            ("profile and KV cache", self.profile_s),
            ("first completion", self.first_completion_s),
        ]
        told = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in parts if seconds is not None)
        return f"ready after {self.total_s:.1f} s: {told}"


def _connect(where: SplitResult) -> http.client.HTTPConnection:
    """A connection to our own server; its certificate need not name this machine as we do."""
    host, port = where.hostname or "", where.port
    if where.scheme == "https":
        context = tls.make_client_context(verify=False)
        return http.client.HTTPSConnection(host, port, timeout=_REQUEST_TIMEOUT_S, context=context)
    return http.client.HTTPConnection(host, port, timeout=_REQUEST_TIMEOUT_S)


def complete_once(url: str, model: str, api_key: str | None, is_alive: Callable[[], bool]) -> float:
    """Ask for one token until an answer comes, and return the seconds from the first accepted try to the answer.

    Args:
        is_alive: whether it is worth waiting on.

    Raises:
        EngineError: the server answers, but not with a completion.
    """
    where = urlsplit(url)
    body = json.dumps({"model": model, "prompt": "Hello", "max_tokens": 1, "temperature": 0})
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {api_key}"} if api_key else {})
    while True:
        began = time.monotonic()
        connection = _connect(where)
        try:
            connection.request("POST", "/v1/completions", body, headers)
            response = connection.getresponse()
            text = response.read().decode(errors="replace")
        except (ConnectionError, http.client.HTTPException) as error:
            if not is_alive():
                raise EngineError("the engine died during its first completion") from error
            time.sleep(0.05)
            continue
        except TimeoutError as error:
            raise EngineError(
                f"the first completion did not come within {_REQUEST_TIMEOUT_S:.0f} s",
                fix="the engine is wedged: look at the last lines of its log",
            ) from error
        finally:
            connection.close()
        if response.status != 200:
            raise EngineError(f"the first completion failed with HTTP {response.status}: {text[:500]}")
        return time.monotonic() - began


def make_curl(url: str, model: str, *, needs_key: bool) -> str:
    """A curl line that works as printed."""
    body = json.dumps({"model": model, "prompt": "The capital of France is", "max_tokens": 16, "temperature": 0})
    key = '-H "Authorization: Bearer $RAYLAUNCH_SERVER__API_KEY" ' if needs_key else ""
    insecure = "-k " if url.startswith("https:") else ""
    return f"curl -s {insecure}{url}/v1/completions -H 'Content-Type: application/json' {key}-d '{body}'"


def describe_kv_cache(facts: Mapping[str, Any]) -> str:
    """KV cache tokens and how many whole-length requests they hold."""
    tokens, length = int(facts["kv_cache_tokens"]), int(facts["max_model_len"])
    return f"KV cache: {tokens:,} tokens, {tokens / length:.1f} requests of {length:,} tokens at once"
