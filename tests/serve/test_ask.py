"""`raylaunch ask` against servers that answer something else: one sentence and exit 1, and thinking is shown."""

import json
import socket
import ssl
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from raylaunch.base.errors import ServiceError
from raylaunch.base.http_client import Access, explain, find_base_url
from raylaunch.base.proxies import is_near
from raylaunch.base.tls import ClientTls, make_client_context
from raylaunch.cli.main import _run
from raylaunch.serve.ask import Server, ask
from tests.private_ca import PrivateCa
from tests.serve.canned_server import MODELS, STREAM, answer, delta, serve, stream

CHAT = "/v1/chat/completions"
LIST = {"/v1/models": answer(MODELS)}


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1)
def door(arguments: tuple[str, ...]) -> None:
    """The command line with its door for errors."""
    raise SystemExit(_run([*arguments]))


def run(*arguments: str, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(door, ["--", "ask", *arguments], input=stdin)


def collect(url: str, *, timeout_s: float = 10.0, model: str | None = None, verify: bool = True) -> dict[str, str]:
    """The text of each kind of piece."""
    found: dict[str, str] = {}
    for piece in ask("hi", Server(url, Access(timeout_s, tls=ClientTls(verify=verify))), model=model, max_tokens=16):
        found[piece.kind] = found.get(piece.kind, "") + piece.text
    return found


def fail(answers: dict[str, bytes], path: str = "", **options: object) -> str:
    """The sentence and the fix that a server's answers end in."""
    with serve(answers) as url, pytest.raises(ServiceError) as caught:
        collect(url + path, **options)  # type: ignore[arg-type]
    assert "\n" not in caught.value.what
    assert caught.value.fix
    return f"{caught.value.what} | {caught.value.fix}"


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
def test_thinking_is_shown(field: str) -> None:
    events = [delta(role="assistant", content=""), delta(**{field: "hm"}), delta(content="Paris"), delta("stop")]
    with serve(LIST | {CHAT: stream(*events)}) as url:
        assert collect(url) == {"thinking": "hm", "answer": "Paris"}
    with serve(LIST | {CHAT: stream(delta(**{field: "hm"}), delta("length"))}) as url:
        found = collect(url)
        done = run("hi", "--url", url)
    assert "max_tokens ended the answer while the model was thinking" in found["note"]
    assert (done.exit_code, done.stdout) == (0, "")
    assert "hm" in done.stderr
    assert "raise --max-tokens" in done.stderr


def test_odd_streams_are_read() -> None:
    """Comments, null deltas, empty and null choices, bytes that are no UTF-8, half a pair, a usage event."""
    events = [
        b": ping", b"data: null", {"choices": [{"delta": None}]}, {"choices": []}, {"choices": [None]},
        {"choices": None},
        b'data: "hello"', b'data: {"choices":[{"delta":{"content":"\xff"}}]}', delta(content="\ud800"),
        delta(content=None, tool_calls=[]), delta(content=3), delta("stop"), {"choices": [], "usage": {}},
    ]  # fmt: skip
    with serve(LIST | {CHAT: stream(*events)}) as url:
        assert collect(url) == {"answer": "\ufffd?"}
        assert run("hi", "--url", url).exit_code == 0


def test_other_answers_are_read() -> None:
    """A server that does not stream; a model without a chat template; an empty answer."""
    whole = answer(b'{"choices":[{"message":{"content":"Paris"},"finish_reason":"stop"}]}')
    with serve(LIST | {CHAT: whole}) as url:
        assert collect(url) == {"answer": "Paris"}
    refused = answer(b'{"error":{"message":"no chat template"}}', "400 Bad Request")
    plain = stream({"choices": [{"text": "Paris", "finish_reason": "stop"}]})
    with serve(LIST | {CHAT: refused, "/v1/completions": plain}) as url:
        assert collect(url) == {"answer": "Paris"}
    with serve(LIST | {CHAT: stream()}) as url:
        assert collect(url) == {"note": "the answer is empty"}


@pytest.mark.parametrize(
    ("chat", "pieces"),
    [
        (stream(b'data: {"choices":[{"delta":\ndata: {"content":"Paris"}}]}'), {"answer": "Paris"}),
        (stream(b'data:{"choices":[{"delta":{"content":"Paris"}}]}', b"data:"), {"answer": "Paris"}),
        (STREAM + b'{"choices":[{"message":{"content":"Paris"},"finish_reason":"stop"}]}', {"answer": "Paris"}),
        (stream(delta(content="Paris")).replace(b"event-stream", b"plain"), {"answer": "Paris"}),
        (stream(delta(content=[{"type": "text", "text": "Paris"}, 1])), {"answer": "Paris"}),
        (stream(delta(content="\x1b]0;x\x07Pa\tris\r\n\x9b2J")), {"answer": "]0;xPa\tris\n2J"}),
        (stream(b"\xef\xbb\xbfdata: " + json.dumps(delta(content="Paris")).encode()), {"answer": "Paris"}),
        (stream(delta(thinking="hm"), delta(content="Paris")), {"thinking": "hm", "answer": "Paris"}),
        (stream(delta("abort", content="Pa")),
         {"answer": "Pa", "note": "the server ended the answer (finish_reason abort)"}),
        (stream(delta("content_filter", refusal="No.")),
         {"answer": "No.", "note": "the server's content filter ended the answer"}),
        (stream(delta("tool_calls", tool_calls=[{"function": {"name": "f"}}])),
         {"note": "the model calls a tool instead of an answer"}),
    ],
)  # fmt: skip
def test_gateways_write_it_otherwise(chat: bytes, pieces: dict[str, str]) -> None:
    """Data over two lines, other content types, content parts; control characters stay away from the terminal."""
    with serve(LIST | {CHAT: chat}) as url:
        assert collect(url) == pieces


@pytest.mark.parametrize(
    "event", [b'error: {"code": 500, "message": "boom"}', {"object": "error", "message": "boom"}, {"detail": "boom"}]
)
def test_errors_of_other_servers(event: Any) -> None:
    """llama.cpp's field, and errors that are not under `error`."""
    with serve(LIST | {CHAT: stream(event)}) as url, pytest.raises(ServiceError, match="ended in an error: boom"):
        collect(url)


def test_an_error_begins_on_its_own_line() -> None:
    with serve(LIST | {CHAT: stream(delta(content="half"), {"error": ["\x1b[31m", 1]}, done=False)}) as url:
        done = run("hi", "--url", url)
    assert done.stdout == "half\n"
    assert 'ended in an error: ["\\u001b[31m", 1]' in done.stderr


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ({"": answer(b"<html>login</html>", kind="text/html")}, "no OpenAI-compatible server: it answered an HTML"),
        ({"": answer(b"", "404 Not Found")}, "HTTP 404"),
        ({"": answer(b"[]")}, "/v1/models has no list of models"),
        ({"": answer(b'{"models":["m"]}')}, "/v1/models has no list of models"),
        ({"": answer(b'{"data":[]}')}, "serves no model"),
        ({"": answer(b'{"data":[null,{}]}')}, "serves no model"),
        ({"": answer(b"\xff\xfe{")}, "no OpenAI-compatible server"),
        ({"": answer(b"")}, "it answered nothing"),
        ({"": answer(b"[" * 100_000)}, "no OpenAI-compatible server"),
        ({"": answer(b'{"error":"Unauthorized"}', "401 Unauthorized")}, "requires an API key"),
        ({"": answer(b"", "302 Found", "text/html", "Location: http://example.com/x")}, "redirects to http://example.c"),
        ({"": answer(b"", "308 Permanent Redirect", "text/html", "Location: /v1/models")}, "redirects again"),
        ({"": b"SSH-2.0-OpenSSH_9.2\r\n"}, "did not answer in HTTP"),
        ({"": b""}, "closed the connection before its answer was complete"),
        ({"": b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"}, "before its answer was complete"),
        ({}, "within 0.5 s"),
        (LIST | {CHAT: answer(b"<html>", kind="text/html")}, "an HTML page"),
        (LIST | {CHAT: answer(b'{"error":{"message":"too\\nlong"}}', "400 Bad Request")}, "HTTP 400: too long"),
        (LIST | {CHAT: answer(b"busy", "503 Service Unavailable")}, "HTTP 503: busy"),
        (LIST | {CHAT: stream(delta(content="a"), done=False)}, "the answer broke off"),
        (LIST | {CHAT: stream(b"data: {oops")}, "an event that is not JSON"),
        (LIST | {CHAT: stream({"error": {"message": "EngineCore died"}})}, "EngineCore died"),
        (LIST | {CHAT: stream(b'event: error\r\ndata: {"message": "boom", "code": 500}')}, "boom"),
        (LIST | {CHAT: STREAM.replace(b"Connection: close", b"Transfer-Encoding: chunked") + b"zz\r\n"},
         "the answer broke off"),
    ],
)  # fmt: skip
def test_one_sentence_for_each_failure(answers: dict[str, bytes], words: str) -> None:
    assert words in fail(answers, timeout_s=0.5 if not answers else 10.0)
    if answers:
        with serve(answers) as url:
            done = run("hi", "--url", url)
        assert done.exit_code == 1, done.output


def test_a_model_that_is_not_served_is_named() -> None:
    """By the server's own words, where it lists the model."""
    found = fail(LIST | {CHAT: answer(b'{"message":"`m` does not exist"}', "404 Not Found")})
    assert "HTTP 404: `m` does not exist | `raylaunch ask` needs a model that generates; it lists: m" in found
    found = fail(LIST | {CHAT: answer(b'{"error":{"message":"no such model"}}', "404 Not Found")}, model="other")
    assert "serves no model other | it serves: m" in found


def test_redirects_to_the_same_host_are_followed() -> None:
    """With method and body; the second port is another server."""
    with serve(LIST | {CHAT: stream(delta("stop", content="Paris"))}) as real:
        moved = {
            path: answer(b"", "308 Permanent Redirect", "text/html", f"Location: {real}{path}")
            for path in (*LIST, CHAT)
        }
        with serve(moved) as url:
            assert collect(url) == {"answer": "Paris"}
            assert collect(url, model="m") == {"answer": "Paris"}


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/", "/v1/chat/completions", "/v1/models", "/chat/completions", "/health"]
)
def test_endpoint_paths_are_cut(path: str) -> None:
    with serve(LIST | {CHAT: stream(delta("stop", content="Paris"))}) as url:
        assert collect(url + path) == {"answer": "Paris"}
        assert find_base_url(f"{url}/gw{path}") == f"{url}/gw"


@pytest.mark.parametrize(
    "url",
    ["http://[::1", "http://h:99999", "ftp://h", "http://", "http://a b", "http://h\x00", "", "http://" + "ä" * 70],
)
def test_what_is_no_url_is_refused(url: str) -> None:
    done = run("hi", "--url", url)
    assert done.exit_code == 1, done.output


def test_one_word_per_failure_to_connect() -> None:
    """TLS to a port that is silent; a closed port."""
    with serve({}) as url, pytest.raises(ServiceError, match=r"no answer from .* within 0.5 s"):
        collect(url.replace("http:", "https:"), timeout_s=0.5)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(ServiceError, match="connection refused by"):
            collect(f"http://127.0.0.1:{closed.getsockname()[1]}")


def test_a_model_that_does_not_chat() -> None:
    """An embedding model's server has no such API."""
    what = fail(LIST | {CHAT: answer(b'{"detail": "Not Found"}', "404 Not Found")})
    assert "m may be a model that embeds, scores or classifies" in what


def test_certificates_that_no_ca_file_mends(tmp_path: Path) -> None:
    """Another host's certificate: the advice is not to name a CA. A client's of another CA: it is rejected."""
    ca, other = PrivateCa.make(tmp_path / "ca"), PrivateCa.make(tmp_path / "other")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(*ca.server)
    with serve(LIST, tls=server) as url:
        seen = run("hi", "--url", url.replace("127.0.0.1", "localhost"), "--cacert", str(ca.certificate))
    assert "certificate is not valid for 'localhost'" in seen.stderr
    assert "correct the URL's host or the server's certificate" in " ".join(seen.stderr.split())
    refused = make_client_context(ClientTls(ca_file=ca.certificate, client_cert=other.client))
    with serve(LIST, tls=ca.make_server_context()) as url:
        error: Exception | None = None
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as plain:
            try:
                with refused.wrap_socket(plain, server_hostname="127.0.0.1") as secure:
                    secure.recv(1)
            except ssl.SSLError as caught:
                error = caught
    assert error is not None
    assert "rejects the client certificate: tlsv1_alert_unknown_ca" in explain(error, url, 1.0).what


def test_private_ca_and_client_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server of a private CA that requires a certificate: each way to name them, and each fault of a file."""
    ca = PrivateCa.make(tmp_path / "a folder")
    shown = ["--cert", str(ca.client[0]), "--key", str(ca.client[1])]
    with serve(LIST | {CHAT: stream(delta("stop", content="Paris"))}, tls=ca.make_server_context()) as url:
        ask = ("hi", "--url", url)
        assert run(*ask, "--cacert", str(ca.certificate), *shown).stdout == "Paris\n"
        assert run(*ask, "--insecure", *shown).stdout == "Paris\n"
        for options, words in (
            (shown, "is not trusted"),
            (["--cacert", str(ca.certificate)], "--cert CERT.pem"),
            (["--cacert", str(tmp_path / "none.pem")], "cannot read"),
            (["--cacert", str(ca.client[1])], "no certificate or crl found"),
            ([*shown[:2], "--key", str(ca.server[1])], "key values mismatch"),
            (shown[:2], "no key in PEM format without a passphrase"),
        ):
            done = run(*ask, *options)
            assert (done.exit_code, words in done.stderr) == (1, True), done.stderr
            assert "--cacert" in done.stderr or "--cert" in done.stderr
        monkeypatch.setenv("SSL_CERT_FILE", str(ca.certificate))
        make_client_context.cache_clear()
        assert run(*ask, *shown).stdout == "Paris\n"
    make_client_context.cache_clear()
    assert run("hi", "--key", "key.pem").exit_code == 2


def test_own_addresses_are_asked_without_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loopback, private networks and their names; a public address takes the proxy."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with serve(LIST | {CHAT: stream(delta("stop", content="Paris"))}) as url:
        assert collect(url) == {"answer": "Paris"}
        assert collect(url.replace("127.0.0.1", "localhost")) == {"answer": "Paris"}
    assert is_near("10.0.0.7")
    assert is_near("fd00::1")
    assert is_near("100.64.0.1")
    assert not is_near("8.8.8.8")


def test_a_proxy_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the server behind it, which was not asked; and no password."""
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("http_proxy", "http://u:hush@127.0.0.1:1")
    with pytest.raises(ServiceError) as caught:
        collect("http://8.8.8.8")
    assert "no way to http://8.8.8.8/v1/models through the proxy http://127.0.0.1:1: Connection" in caught.value.what
    assert "no_proxy=8.8.8.8" in caught.value.what
    with pytest.raises(ServiceError, match="had a user name or password, which raylaunch does not"):
        collect("http://u:hush@127.0.0.1:1")


def test_a_question_that_is_no_utf8_is_refused() -> None:
    done = run("--url", "http://127.0.0.1:1", stdin=b"caf\xe9")
    assert done.exit_code == 1
    assert "not UTF-8 text (byte 4)" in done.output


def test_a_key_that_no_header_carries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "密钥")
    done = run("hi", "--url", "http://127.0.0.1:1")
    assert done.exit_code == 1
    assert "no HTTP header can carry" in done.output
