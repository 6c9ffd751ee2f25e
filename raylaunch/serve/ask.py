"""`raylaunch ask`: one question, its answer streamed; whatever a server sends instead ends in one sentence."""

import http.client
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from raylaunch.base import http_client
from raylaunch.base.errors import ServiceError
from raylaunch.base.http_client import Access, HttpFailure, RequestError, describe_error
from raylaunch.base.text import quote
from raylaunch.base.viewpoint import HERE, Viewpoint

_LONGEST_LINE = 16 << 20
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""All but tab and newline: a model's text must not command the terminal."""
_THINKING = ("reasoning", "reasoning_content", "thinking")
"""vLLM's field, and that of others (and of vLLM before 0.12)."""


@dataclass(frozen=True)
class Piece:
    """Part of an answer."""

    text: str
    kind: str = "answer"
    """"answer", "thinking", or "note": raylaunch's own words."""


@dataclass(frozen=True)
class Server:
    """Whom to ask."""

    url: str
    access: Access
    name: str = ""
    """What errors call it; default: its URL."""
    view: Viewpoint = HERE
    """Where the commands of errors are typed."""

    @property
    def shown(self) -> str:
        """Its name in errors."""
        return self.name or http_client.hide_password(self.url)


def ask(question: str, server: Server, *, model: str | None, max_tokens: int | None) -> Iterator[Piece]:
    """Ask and yield the answer piece by piece.

    A chat completion; where the model has no chat template, a plain completion of the question.

    Args:
        model: name; None: the first model of the server.
        max_tokens: longest answer in tokens; None: the server's default.

    Raises:
        ServiceError: no answer, a wrong URL, key or model, or an answer that broke off.
    """
    try:
        server = replace(server, url=http_client.find_base_url(server.url))
        names: list[str] = []
        if model is None:
            names, server = _list_models(server)
            if not names:
                raise ServiceError(f"{server.shown} serves no model", fix="name one with --model")
        fields: dict[str, object] = {"model": model or names[0], "stream": True}
        if max_tokens is not None:
            fields["max_tokens"] = max_tokens
        messages = [{"role": "user", "content": question}]
        try:
            yield from _stream(server, "/v1/chat/completions", {**fields, "messages": messages})
        except RequestError as error:
            if error.status != 400 or "chat template" not in error.words.lower():
                raise
            yield from _stream(server, "/v1/completions", {**fields, "prompt": question})
    except RequestError as error:
        raise _explain(error, server, model) from error


def _list_models(server: Server) -> tuple[list[str], Server]:
    """The server's models, and the server at the URL that it redirected to."""
    path = "/v1/models"
    listed, url = http_client.request_json(server.url + path, server.access)
    entries = listed.get("data") if isinstance(listed, dict) else None
    if not isinstance(entries, list):
        raise RequestError(
            HttpFailure.CONTENT, f"{server.shown} is no OpenAI-compatible server: {path} has no list of models"
        )
    names = [entry["id"] for entry in entries if isinstance(entry, dict) and isinstance(entry.get("id"), str)]
    return names, replace(server, url=url.removesuffix(path)) if url.endswith(path) else server


def _stream(server: Server, path: str, fields: Mapping[str, Any]) -> Iterator[Piece]:
    url = server.url + path
    try:
        with http_client.open_url(url, server.access, json.dumps(fields).encode()) as answer:
            start = answer.peek(1).lstrip()  # some gateways send streams as text/plain, and JSON as a stream
            is_stream = answer.headers.get_content_type() == "text/event-stream" and not start.startswith(b"{")
            is_stream = is_stream or start.startswith((b"data:", b"event:", b":"))
            yield from _read_pieces(_read_events(answer) if is_stream else [http_client.read_json(answer, url)])
    except (OSError, http.client.HTTPException) as error:
        raise http_client.explain(error, url, server.access.timeout_s) from error


def _read_events(answer: http.client.HTTPResponse) -> Iterator[Any]:
    """The JSON of a stream's events, until [DONE] or the end.

    Raises:
        RequestError: an event that is not JSON, or an error's event.
    """
    is_error, held = False, ""
    while line := answer.readline(_LONGEST_LINE):
        text = line.decode(errors="replace").strip().removeprefix("\ufeff")
        name, _, value = text.partition(":")
        if name == "error":  # llama.cpp's
            is_error, name = True, "data"
        if name == "event":
            is_error = value.strip() == "error"
        if name == "data":
            held = f"{held}\n{value}".strip()
        if not held or (text and name != "data"):
            continue
        if held == "[DONE]":
            yield {"choices": [{"finish_reason": "stop"}]}
            return
        try:
            event = json.loads(held)
        except (ValueError, RecursionError):
            if text and not is_error:
                continue  # an event's data may go on in the next line
            event = None
        if is_error:
            raise RequestError(HttpFailure.STATUS, f"the answer ended in an error: {describe_error(event or held)}")
        if event is None and held != "null":
            break
        held = ""
        yield event
    if held:
        raise RequestError(HttpFailure.CONTENT, f"the stream has an event that is not JSON: {quote(held[:80])}")


def _read_pieces(events: "Iterator[Any] | list[Any]") -> Iterator[Piece]:
    """Thinking and answer of a stream's events, or of one complete answer.

    Raises:
        RequestError: the server sent an error, or the answer broke off.
    """
    kinds: set[str] = set()
    reason, calls_tool = "", False
    for event in events:
        is_bare = isinstance(event, dict) and "choices" not in event and bool(event.keys() & {"message", "detail"})
        if isinstance(event, dict) and (event.get("error") or is_bare):
            said = describe_error(event.get("error") or event)
            raise RequestError(HttpFailure.STATUS, f"the answer ended in an error: {said}")
        choice = _find_choice(event)
        for piece in _split(choice):
            kinds.add(piece.kind)
            yield piece
        calls_tool = calls_tool or bool(_find_part(choice).get("tool_calls"))
        reason = reason or str(choice.get("finish_reason") or "")
        if reason == "stop" and not choice.get("delta", True):
            break
    if not reason:
        raise RequestError(HttpFailure.BROKEN, "the answer broke off: it has no end ([DONE] or a finish reason)")
    if reason == "length" and "answer" not in kinds:
        yield Piece("max_tokens ended the answer while the model was thinking; raise --max-tokens", "note")
    elif reason == "length":
        yield Piece("max_tokens ended the answer", "note")
    elif reason in ("abort", "error"):
        yield Piece(f"the server ended the answer (finish_reason {reason})", "note")
    elif reason == "content_filter":
        yield Piece("the server's content filter ended the answer", "note")
    elif calls_tool and "answer" not in kinds:
        yield Piece("the model calls a tool instead of an answer", "note")
    elif not kinds:
        yield Piece("the answer is empty", "note")


def _find_choice(event: Any) -> Mapping[str, Any]:
    """The first choice of an event; empty where there is none."""
    choices = event.get("choices") if isinstance(event, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    return choice if isinstance(choice, dict) else {}


def _find_part(choice: Mapping[str, Any]) -> Mapping[str, Any]:
    part = choice.get("delta") or choice.get("message")
    return part if isinstance(part, dict) else {}


def _split(choice: Mapping[str, Any]) -> Iterator[Piece]:
    part = _find_part(choice)
    thinking = next((part[name] for name in _THINKING if isinstance(part.get(name), str)), "")
    text = part.get("content") or part.get("refusal") or choice.get("text") or ""
    if isinstance(text, list):  # content parts
        text = "".join(str(entry.get("text") or "") for entry in text if isinstance(entry, dict))
    for kind, value in (("thinking", thinking), ("answer", text)):
        if isinstance(value, str) and (shown := _CONTROL.sub("", value)):
            yield Piece(shown.encode(errors="replace").decode(), kind)  # lone surrogates can be sent, but not written


def _explain(error: RequestError, server: Server, model: str | None) -> ServiceError:
    """The failure in one sentence, and what to do."""
    shown, status = server.shown, server.view.command("status")
    if error.status in (401, 403):
        return ServiceError(
            f"{shown} rejects the API key" if server.access.api_key else f"{shown} requires an API key",
            fix="set RAYLAUNCH_SERVER__API_KEY (or OPENAI_API_KEY) to the key the server was started with",
        )
    if error.status == 404:
        try:
            names = _list_models(server)[0]
        except RequestError:
            names = []
        if names and model is not None and model not in names:
            return ServiceError(f"{shown} serves no model {model}", fix=f"it serves: {', '.join(names)}")
        if names and error.words.lower() != "not found":
            return ServiceError(
                error.what, fix=f"`raylaunch ask` needs a model that generates; it lists: {', '.join(names)}"
            )
        if names:
            what = (
                f"{shown} has no chat completions: {model or names[0]} may be a model that embeds, scores or classifies"
            )
            return ServiceError(
                what,
                fix="`raylaunch ask` needs a model that generates; this one has /v1/embeddings, /score, /classify or "
                "/pooling",
            )
    fixes = {
        **http_client.TLS_FIXES,
        HttpFailure.URL: "as in --url http://10.0.0.1:8080",
        HttpFailure.NAME: "correct --url",
        HttpFailure.CONTENT: "correct --url: the address of an OpenAI-compatible server, without /v1",
        HttpFailure.REFUSED: f"`{status}` shows what serves here; start with `{server.view.command('serve')}`",
        HttpFailure.SILENT: f"`{status}` shows its queue; --timeout-s waits longer",
        HttpFailure.KEY: "set RAYLAUNCH_SERVER__API_KEY (or OPENAI_API_KEY) to the key the server was started with",
    }
    what = error.what if not server.name else error.what.replace(server.url, server.name)
    fix = fixes.get(error.kind, f"`{status}` shows its state")
    if error.status == 404:
        fix = "correct --url: the address of an OpenAI-compatible server, without /v1; or name its model with --model"
    return ServiceError(what, fix=fix)
