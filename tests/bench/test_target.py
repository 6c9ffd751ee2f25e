"""What the server under load answers before the load begins, and the advice that follows."""

import pytest

from raylaunch.base.errors import BenchError
from raylaunch.bench.target import find_target, try_request
from tests.serve.canned_server import MODELS, answer, serve

LIST = {"/v1/models": answer(MODELS)}
CHAT = "/v1/chat/completions"


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ({"/v1/models": answer(b"{}", "503 Service Unavailable")}, "try again"),
        ({"/v1/models": answer(b"{}", "404 Not Found")}, "correct --url"),
        (
            LIST | {CHAT: answer(b'{"error": {"message": "busy"}}', "429 Too Many Requests")},
            "HTTP 429: busy | try again",
        ),
        (LIST | {CHAT: answer(b"{}", "404 Not Found")}, "m may be one that embeds, scores or classifies"),
        (LIST | {CHAT: answer(b'{"error": "top_k"}', "400 Bad Request")}, "top_k | change the request's options"),
    ],
)
def test_refusals(answers: dict[str, bytes], words: str) -> None:
    """A server that starts or is busy, a wrong URL, another kind of model, an option."""
    with serve(answers) as url, pytest.raises(BenchError) as caught:
        try_request(find_target(launch=None, url=url, port=None, model=None), CHAT, b'{"model": "m"}')
    assert words in f"{caught.value.what} | {caught.value.fix}"


def test_a_proxy_is_named_where_it_was_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The load goes directly; a server that only a proxy reaches is no reason to blame the proxy."""
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("http_proxy", "http://u:hush@127.0.0.1:1")
    with pytest.raises(BenchError) as caught:
        find_target(launch=None, url="http://nowhere.invalid", port=None, model=None)
    assert caught.value.what.startswith("nowhere.invalid does not resolve")
    assert "directly, not through the proxy http://127.0.0.1:1" in caught.value.what
