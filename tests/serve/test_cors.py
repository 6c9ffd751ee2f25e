"""The listener's answers to browsers: those of Starlette's CORSMiddleware, which answers while an engine serves."""

import asyncio
import itertools
from collections.abc import MutableMapping
from typing import Any

import pytest
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from raylaunch.serve.cors import CorsRules
from raylaunch.serve.unready_answer import AnswerRules, Notice, RequestHead, make_answer

NOTICE = Notice("starting", "starting", 7, "raylaunch_up 0\n")
PAGE = "https://page.example"
RULES = [
    CorsRules(*rules)
    for rules in itertools.product(
        [("*",), (PAGE,), ("https://other.example",)], [("*",), ("GET", "POST")], [("*",), ("X-One",)], [False, True]
    )
]
PREFLIGHTS = [
    {"origin": PAGE, "access-control-request-method": "POST"},
    {"origin": PAGE, "access-control-request-method": "PUT", "access-control-request-headers": "X-One, content-type"},
    {"origin": PAGE, "access-control-request-method": "POST", "access-control-request-headers": "authorization"},
    {
        "origin": PAGE,
        "access-control-request-method": "POST",
        "access-control-request-private-network": "true",
    },
]


def ask_starlette(rules: CorsRules, method: str, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
    """The answer of an app behind Starlette's middleware, which itself answers 503 to everything."""
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    app = CORSMiddleware(
        Response(status_code=503), rules.origins, rules.methods, rules.headers, rules.credentials,
        expose_headers=["Retry-After"],
    )  # fmt: skip
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    asyncio.run(app({"type": "http", "method": method, "path": "/", "headers": raw}, receive, send))
    answered = {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], answered, sent[1]["body"]


def ask_listener(rules: CorsRules, method: str, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    request = RequestHead.parse(f"{method} /v1/models HTTP/1.1\r\n{lines}\r\n")
    head, _, body = make_answer(request, NOTICE, AnswerRules((), rules)).partition(b"\r\n\r\n")
    answered = RequestHead.parse(head.decode())
    return int(answered.path), dict(answered.headers), body


def pick(headers: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name == "vary" or name.startswith("access-control")}


@pytest.mark.parametrize("rules", RULES, ids=str)
def test_browsers_get_what_starlette_answers(rules: CorsRules) -> None:
    """Preflights with their status and text; other requests with the headers that let a page read the 503."""
    for headers in PREFLIGHTS:
        status, lines, text = ask_listener(rules, "OPTIONS", headers)
        expected = ask_starlette(rules, "OPTIONS", headers)
        expected[1].pop("access-control-expose-headers", None)
        assert (status, pick(lines), text) == (expected[0], pick(expected[1]), expected[2])
    status, lines, _ = ask_listener(rules, "POST", {"origin": PAGE})
    assert status == 503
    assert pick(lines) == pick(ask_starlette(rules, "POST", {"origin": PAGE})[1])


def test_no_headers_where_no_origin_is_allowed_or_named() -> None:
    assert pick(ask_listener(CorsRules(), "OPTIONS", PREFLIGHTS[0])[1]) == {}
    assert ask_listener(CorsRules(), "OPTIONS", PREFLIGHTS[0])[0] == 503
    assert pick(ask_listener(CorsRules(("*",)), "POST", {})[1]) == {}


def test_a_lone_line_feed_adds_no_header() -> None:
    request = RequestHead.parse(f"GET / HTTP/1.1\r\nOrigin: {PAGE}\nSet-Cookie: a=b\r\n\r\n")
    answer = make_answer(request, NOTICE, AnswerRules((), CorsRules(("*",), credentials=True)))
    assert b"Set-Cookie" not in answer
