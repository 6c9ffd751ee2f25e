"""The first completion, which makes a service ready, and what a user learns then: start-up times and how to ask."""

import http.client
import json
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from raylaunch.base import tls
from raylaunch.base.errors import EngineError
from raylaunch.engine.messages import EngineReady

_REQUEST_TIMEOUT_S = 300.0
"""A first completion compiles and warms up what start-up did not."""


@dataclass(frozen=True)
class StartupTimes:
    """Where the start-up time went, in seconds.

    `import_s` ran beside join and check, so the sum may exceed the total.
    """

    fetch_s: float
    """Checking the model's folder, or downloading it."""
    join_s: float
    check_s: float
    import_s: float
    workers_s: float
    """vLLM's workers start and import: from its start to a ready engine, less load and profile."""
    load_s: float | None
    """Weight loading of the slowest worker, from vLLM's log; None where the log has none."""
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
        known = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in parts if seconds is not None)
        return f"ready after {self.total_s:.1f} s: {known}"


def _connect(where: SplitResult) -> http.client.HTTPConnection:
    """A connection to the service on this machine; its certificate need not name the host of `where`."""
    host, port = where.hostname or "", where.port
    if where.scheme == "https":
        context = tls.make_client_context(verify=False)
        return http.client.HTTPSConnection(host, port, timeout=_REQUEST_TIMEOUT_S, context=context)
    return http.client.HTTPConnection(host, port, timeout=_REQUEST_TIMEOUT_S)


def complete_once(url: str, model: str, api_key: str | None, is_alive: Callable[[], bool]) -> float:
    """Request one token; try again while no connection is accepted. Returns the seconds of the request that succeeded.

    Args:
        is_alive: whether the engine still runs.

    Raises:
        EngineError: the engine died, or the answer is not a completion, or there is none within 300 s.
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
                fix="the engine is wedged: see the last lines of its log",
            ) from error
        finally:
            connection.close()
        if response.status != 200:
            raise EngineError(f"the first completion failed with HTTP {response.status}: {text[:500]}")
        return time.monotonic() - began


def make_curl(url: str, model: str, *, key: str) -> str:
    """A curl command that works as printed.

    Args:
        key: the API key as a shell expands it inside double quotes; empty: none is needed.
    """
    body = json.dumps({"model": model, "prompt": "The capital of France is", "max_tokens": 16, "temperature": 0})
    header = f'-H "Authorization: Bearer {key}" ' if key else ""
    insecure = "-k " if url.startswith("https:") else ""
    return f"curl -s {insecure}{url}/v1/completions -H 'Content-Type: application/json' {header}-d {shlex.quote(body)}"


def describe_kv_cache(engine: EngineReady) -> str:
    """KV cache tokens, and how many requests of the maximum length they hold."""
    tokens, length = engine.kv_cache_tokens, engine.max_model_len
    return f"KV cache: {tokens:,} tokens, {tokens / length:.1f} requests of {length:,} tokens at once"
