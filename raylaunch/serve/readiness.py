"""The first completion, which makes a service ready, and what a user learns then: start-up times and how to ask."""

import http.client
import json
import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from raylaunch.base import http_client, proxies
from raylaunch.base.errors import EngineError
from raylaunch.base.http_client import Access, HttpFailure, RequestError
from raylaunch.base.tls import CertificateFiles, ClientTls
from raylaunch.config.launch import LaunchConfig
from raylaunch.engine.messages import EngineReady
from raylaunch.plan.history import Forecast

_REQUEST_TIMEOUT_S = 300.0
"""A first completion compiles and warms up what start-up did not."""
_CHECK_TIMEOUT_S = 10.0


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


class UnaskedError(EngineError):
    """The service could not be asked, for a reason that is not the engine's: TLS, key, route."""


@dataclass(frozen=True)
class Question:
    """The smallest request that a kind of model answers."""

    path: str
    fields: Mapping[str, object]

    def make_body(self, model: str) -> bytes:
        """Its JSON."""
        return json.dumps({"model": model, **self.fields}).encode()


_POOLING = Question("/pooling", {"input": "Hello"})
_QUESTIONS: Mapping[str, Question] = {
    "generate": Question("/v1/completions", {"prompt": "Hello", "max_tokens": 1, "temperature": 0}),
    "embed": Question("/v1/embeddings", {"input": "Hello"}),
    "classify": Question("/classify", {"input": "Hello"}),
    "score": Question("/score", {"text_1": "Hello", "text_2": "Hello"}),  # cross-encoders before vLLM 0.30
    **dict.fromkeys(("token_embed", "token_classify", "embed&token_classify", "encode"), _POOLING),
}
"""By vLLM's task. What needs audio or a plugin's own data is asked for /health alone."""
_NOT_OF_ENGINE = (
    HttpFailure.CERTIFICATE,
    HttpFailure.CERTIFICATE_UNFIT,
    HttpFailure.CLIENT_CERTIFICATE,
    HttpFailure.CERTIFICATE_FILE,
    HttpFailure.UNREACHABLE,
    HttpFailure.NAME,
    HttpFailure.URL,
    HttpFailure.KEY,
)


def make_access(launch: LaunchConfig, timeout_s: float = _REQUEST_TIMEOUT_S) -> Access:
    """How the service of `launch` is asked on this machine; its certificate need not name the host of the URL."""
    key = launch.api_keys[0] if launch.api_keys else None
    tls = ClientTls(verify=False, client_cert=launch.client_cert)
    return Access(timeout_s, key, tls, may_use_proxy=False)


def check_own_request(url: str, launch: LaunchConfig) -> None:
    """Ask the service for its state before a model is loaded: what stops this request would stop the first completion.

    Raises:
        UnaskedError: TLS or the client's certificate does not work.
    """
    if not launch.uses_tls:
        return
    try:
        http_client.request_json(f"{url}/health", make_access(launch, _CHECK_TIMEOUT_S))
    except RequestError as error:
        if error.kind not in (HttpFailure.STATUS, HttpFailure.SILENT):  # 503, or a machine that is very busy
            raise UnaskedError(
                f"raylaunch cannot ask its own service: {error.what}",
                fix="keep.client_certfile (and client_keyfile) must name a certificate that server.ssl_ca_certs signed",
            ) from error


def complete_once(url: str, launch: LaunchConfig, is_alive: Callable[[], bool], task: str = "generate") -> float:
    """Send the smallest request that the model answers; try again while no connection is accepted.

    Args:
        is_alive: whether the engine still runs.
        task: what the model is served for, as vLLM names it.

    Returns:
        The seconds of the request that succeeded.

    Raises:
        UnaskedError: TLS, the key or the way to the service is wrong.
        EngineError: the engine died, or the answer is an error or none within 300 s.
    """
    question, access = _QUESTIONS.get(task), make_access(launch)
    where, body = f"{url}/health", None
    if question is not None:
        where, body = url + question.path, question.make_body(launch.served_model_names[0])
    while True:
        began = time.monotonic()
        try:
            with http_client.open_url(where, access, body) as answer:
                _check_answer(answer.read(), has_body=body is not None)
            return time.monotonic() - began
        except (OSError, http.client.HTTPException) as error:  # while the answer was read
            failure = http_client.explain(error, where, access.timeout_s)
        except RequestError as error:
            failure = error
        if failure.kind not in (HttpFailure.REFUSED, HttpFailure.BROKEN, HttpFailure.TLS_CLOSED):
            raise _explain_failure(failure) from failure
        if not is_alive():
            raise EngineError(f"the engine died during its first completion: {failure.what}") from failure
        time.sleep(0.05)


def _check_answer(content: bytes, *, has_body: bool) -> None:
    """Raise EngineError where the answer to a request is no JSON object."""
    try:
        is_object = not has_body or isinstance(json.loads(content), dict)
    except (ValueError, RecursionError):
        is_object = False
    if not is_object:
        raise EngineError(f"the first completion was answered with no JSON object: {content[:100]!r}")


def _explain_failure(failure: RequestError) -> EngineError:
    if failure.kind is HttpFailure.SILENT:
        return EngineError(
            f"the first completion did not come within {_REQUEST_TIMEOUT_S:.0f} s",
            fix="the engine is wedged: see the last lines of its log",
        )
    if failure.kind in _NOT_OF_ENGINE or failure.status in (401, 403, 407, 429):
        status = f"HTTP {failure.status}: " if failure.status else ""
        return UnaskedError(f"raylaunch cannot ask its own service: {status}{failure.words or failure.what}")
    if failure.status:
        return EngineError(f"the first completion failed with HTTP {failure.status}: {failure.words}")
    return EngineError(f"the first completion failed: {failure.what}")


def make_curl(
    url: str, model: str, *, key: str, client_cert: CertificateFiles | None = None, task: str = "generate"
) -> str:
    """A curl command that works as printed; of a service that only tells its health, that.

    Args:
        key: the API key as a shell's words ("$RAYLAUNCH_SERVER__API_KEY"), or "".
        client_cert: what the service requires.
    """
    question = _QUESTIONS.get(task)
    header = f'-H "Authorization: Bearer {key}" ' if key else ""
    options = "-k " if url.startswith("https:") else ""
    if client_cert is not None:
        files = zip(("--cert", "--key"), client_cert, strict=True)
        options += "".join(f"{name} {shlex.quote(str(path))} " for name, path in files if path is not None)
    if proxies.needs_no_proxy(url):
        options += "--noproxy '*' "
    if question is None:
        return f"curl -s -i {options}{shlex.quote(f'{url}/health')}"
    sentence = {"prompt": "The capital of France is", "max_tokens": 16} if task == "generate" else {}
    body = json.dumps({"model": model, **question.fields, **sentence}, ensure_ascii=False)
    where = shlex.quote(url + question.path)
    return f"curl -s {options}{where} -H 'Content-Type: application/json' {header}-d {shlex.quote(body)}"


def describe_kv_cache(engine: EngineReady, forecast: Forecast | None = None) -> str:
    """KV cache tokens beside the forecast, and how many requests of the maximum length they hold."""
    tokens, length = engine.kv_cache_tokens, engine.max_model_len
    planned = f" (plan: {forecast.tokens[0]:,} to {forecast.tokens[1]:,})" if forecast else ""
    return f"KV cache {tokens:,} tokens{planned}, {tokens / length:.1f} requests of {length:,} tokens at once"
