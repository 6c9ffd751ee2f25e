"""An answer is read alike however the network cuts it up."""

import json
import random
from typing import Any

import pytest

from raylaunch.bench.http_response import HttpAnswer, WireError, make_head, make_request

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"


def event(**fields: object) -> bytes:
    return b"data: " + json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"


def chunk(payload: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(payload), payload)


def token(text: str, finish: str | None = None) -> bytes:
    return event(id="1", choices=[{"index": 0, "delta": {"content": text}, "finish_reason": finish}])


ROLE = event(id="1", choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}])
USAGE = event(id="1", choices=[], usage={"prompt_tokens": 9, "completion_tokens": 5})
DONE = b"data: [DONE]\n\n"
TEXTS = ["Paris", 'data: "error": {', "你好\u2028", '"usage":{', "\n\n[DONE]"]
STREAM = [ROLE, *(token(text) for text in TEXTS[:-1]), token(TEXTS[-1], "stop"), USAGE, DONE]


def read(pieces: list[bytes]) -> HttpAnswer:
    answer = HttpAnswer()
    whole = False
    for number, piece in enumerate(pieces):
        assert not whole
        whole = answer.feed(piece, float(number))
    assert whole
    return answer


def is_right(answer: HttpAnswer) -> None:
    assert answer.status == 200
    assert len(answer.arrivals) == len(TEXTS)
    assert (answer.tokens_in, answer.tokens_out) == (9, 5)
    assert answer.finished
    assert answer.error is None


def test_as_a_server_writes_it() -> None:
    """One event a read: each has its own time, the role's and the usage's count for nothing."""
    answer = read([HEAD, *(chunk(one) for one in STREAM), b"0\r\n\r\n"])
    is_right(answer)
    assert list(answer.arrivals) == [2.0, 3.0, 4.0, 5.0, 6.0]


def test_cut_anywhere() -> None:
    """Every cut in two, every byte alone, and 300 random cuts of the same bytes say the same."""
    whole = HEAD + b"".join(chunk(one) for one in STREAM) + b"0\r\n\r\n"
    for at in range(1, len(whole)):
        is_right(read([whole[:at], whole[at:]]))
    is_right(read([whole[at : at + 1] for at in range(len(whole))]))
    draw = random.Random(1)
    for _ in range(300):
        cuts = sorted(draw.sample(range(1, len(whole)), draw.randint(1, 40)))
        is_right(read([whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]))


def test_events_and_chunks_need_not_agree() -> None:
    """Chunks that end within an event, several events in one chunk, CRLF line ends, comments, spaces in JSON."""
    body = b"".join(STREAM)
    is_right(read([HEAD + b"".join(chunk(body[at : at + 7]) for at in range(0, len(body), 7)) + b"0\r\n\r\n"]))
    is_right(read([HEAD, chunk(body), b"0\r\n\r\n"]))
    is_right(read([HEAD, chunk(b": ping\n\n" + body.replace(b"\n\n", b"\r\n\r\n")), b"0\r\nX-Trailer: 1\r\n\r\n"]))
    spaced = b"".join(b"data: %s\n\n" % json.dumps(json.loads(one[6:])).encode() for one in STREAM[:-1]) + DONE
    is_right(read([HEAD, chunk(spaced), b"0\r\n\r\n"]))


def test_without_chunks() -> None:
    """Content-Length, and until the connection closes."""
    body = b"".join(STREAM)
    plain = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n" % len(body)
    is_right(read([plain + body[:50], body[50:]]))
    answer = HttpAnswer()
    assert not answer.feed(b"HTTP/1.0 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + body, 1.0)
    answer.close(2.0)
    assert not answer.broke
    assert not answer.keep_alive
    is_right(answer)


def test_whole_json_answer() -> None:
    body = json.dumps({"choices": [{"finish_reason": "stop"}], "usage": {"completion_tokens": 3}}).encode()
    answer = read([b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body), body])
    assert (answer.finished, answer.tokens_out, list(answer.arrivals)) == (True, 3, [])


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"error": {"message": "context too long", "code": 400}}', "context too long"),
        (b'{"object": "error", "message": "no such model"}', "no such model"),
        (b'{"detail": "Not Found"}', "Not Found"),
        (b"<h1>Bad Gateway</h1>", "<h1>Bad Gateway</h1>"),
    ],
)
def test_errors_are_reported_in_the_servers_words(body: bytes, said: str) -> None:
    answer = read([b"HTTP/1.1 400 Bad Request\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)])
    assert (answer.status, answer.error, answer.finished) == (400, said, False)


def test_empty_events_of_a_gateway() -> None:
    """Signs of life without data are no failure."""
    answer = read([HEAD, *(chunk(one + b"data:\n\ndata: \n\n: ping\n\n") for one in STREAM), b"0\r\n\r\n"])
    is_right(answer)


def test_error_event_under_200() -> None:
    """vLLM tells of a dead engine inside the stream."""
    stream = [ROLE, token("a"), event(error={"message": "EngineCore died", "code": 500}), DONE]
    answer = read([HEAD, *(chunk(one) for one in stream), b"0\r\n\r\n"])
    assert answer.error == "EngineCore died"


def test_other_servers_streams() -> None:
    """Other content types, a byte order mark, a missing last chunk, an empty error field: all the same stream."""
    for kind in (b"text/plain", b"application/json", b""):
        head = HEAD.replace(b"text/event-stream; charset=utf-8", kind)
        is_right(read([head, *map(chunk, STREAM), b"0\r\n\r\n"]))
    is_right(read([HEAD, chunk(b"\xef\xbb\xbf" + STREAM[0]), *map(chunk, STREAM[1:]), b"0\r\n\r\n"]))
    answer = HttpAnswer()
    for number, piece in enumerate([HEAD, *map(chunk, STREAM)]):
        assert not answer.feed(piece, float(number))
    answer.close(9.0)
    is_right(answer)
    assert not answer.broke
    nothing = event(id="1", choices=[{"index": 0, "delta": {"content": None}, "finish_reason": None}], error=None)
    is_right(read([HEAD, *map(chunk, [*STREAM[:3], nothing, *STREAM[3:]]), b"0\r\n\r\n"]))


@pytest.mark.parametrize(
    ("pieces", "said"),
    [
        ([b'error: {"code":500,"message":"boom"}\n\n'], "boom"),
        ([b'event:error\ndata:{"message":"boom"}\n\n'], "boom"),
        ([b'{"error": {"message": "boom"}}'], "boom"),
        ([b'{"object": "error", "message": "boom"}'], "boom"),
        ([token("a"), token("", "abort"), DONE], "the server ended the answer (finish_reason abort)"),
    ],
)
def test_errors_of_other_servers(pieces: list[bytes], said: str) -> None:
    """llama.cpp's field, JSON that is called a stream, an answer that was given up."""
    assert read([HEAD, *map(chunk, pieces), b"0\r\n\r\n"]).error == said


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"object": "error", "message": "boom"}', "boom"),
        (b'{"detail": "boom"}', "boom"),
        (b'{"choices": [{"text": "x"}], "error": null}', None),
    ],
)
def test_json_under_200(body: bytes, said: str | None) -> None:
    """Without choices it is an error; an empty error field is none."""
    answer = read([b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)])
    assert (answer.error, answer.finished) == (said, said is None)


def test_compressed_answers_are_refused() -> None:
    with pytest.raises(WireError, match=r"compressed \(gzip\)"):
        HttpAnswer().feed(HEAD.replace(b"transfer", b"content-encoding: gzip\r\ntransfer"), 0.0)


@pytest.mark.parametrize(
    "end",
    [
        event(id="1", choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}]),
        event(id="1", choices=[{"index": 0, "delta": None, "finish_reason": "stop"}]),
        event(id="1", choices=[{"index": 0, "text": "", "finish_reason": "length"}]),
        token("", "stop"),
        event(id="1", choices=[{"index": 0, "delta": {}, "finish_reason": None}]) + DONE,
        event(id="1", choices=[{"index": 0, "delta": None, "finish_reason": None}]) + DONE,
        event(id="1", choices=[{"index": 0, "delta": {"content": None, "tool_calls": []}, "finish_reason": "stop"}]),
    ],
)
def test_a_finish_without_output_is_no_token(end: bytes) -> None:
    """Servers that omit usage are counted by output events: one read each, or all in one."""
    stream = [ROLE, *map(token, TEXTS), end]
    for pieces in ([HEAD, *map(chunk, stream), b"0\r\n\r\n"], [HEAD + chunk(b"".join(stream)) + b"0\r\n\r\n"]):
        answer = read(pieces)
        assert (len(answer.arrivals), answer.finished, answer.tokens_out, answer.error) == (
            len(TEXTS),
            True,
            None,
            None,
        )


@pytest.mark.parametrize("choices", [[None], [], None, {}, ["x"], [[]]])
def test_choices_of_no_use_are_no_token(choices: object) -> None:
    """First, in the middle and last: they neither count nor end the stream."""
    odd = event(id="1", choices=choices)
    is_right(read([HEAD, *map(chunk, [odd, *STREAM[:2], odd, *STREAM[2:-1], odd, DONE]), b"0\r\n\r\n"]))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"data: out of memory", "out of memory"),
        (b"data: out of\ndata: memory", "out of memory"),
        (b'data: {"error": {"message": "out of memory"}}', "out of memory"),
        (b'data: {"message": "out of memory", "code": 500}', "out of memory"),
        (b'data: "out of memory"', "out of memory"),
        (b"data: \xff memory", "\ufffd memory"),
    ],
)
def test_events_of_the_type_error(data: bytes, said: str) -> None:
    """Their data is the error, whether JSON or text; it counts as no token."""
    for body in (b"event: error\n" + data, data + b"\nevent: error"):
        answer = read([HEAD, *map(chunk, [ROLE, token("a"), token("b"), body + b"\n\n"]), b"0\r\n\r\n"])
        assert (answer.error, len(answer.arrivals), answer.finished) == (said, 2, False)


def test_closed_before_its_end() -> None:
    answer = HttpAnswer()
    answer.feed(HEAD + chunk(token("a")), 1.0)
    answer.close(2.0)
    assert answer.broke


@pytest.mark.parametrize("data", [b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/2 200\r\n\r\n", b"HTTP/1.1 200 OK\r\n" * 6000])
def test_not_http(data: bytes) -> None:
    with pytest.raises(WireError):
        HttpAnswer().feed(data, 1.0)


def test_not_a_chunk() -> None:
    with pytest.raises(WireError):
        HttpAnswer().feed(HEAD + b"data: hello\r\n", 1.0)


def test_continue_comes_before_the_answer() -> None:
    body = b"".join(chunk(one) for one in STREAM)
    is_right(read([b"HTTP/1.1 100 Continue\r\n\r\n" + HEAD, body + b"0\r\n\r\n"]))


def test_request() -> None:
    head = make_head("POST", "localhost:80", "/v1/completions", {"Authorization": "Bearer k"})
    assert make_request(head, b"{}") == (
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost:80\r\nAuthorization: Bearer k\r\nContent-Length: 2\r\n\r\n{}"
    )


@pytest.mark.parametrize(
    "one", [{"text": "", "finish_reason": None}, {"delta": {"content": ""}, "finish_reason": None}]
)
def test_a_token_without_text_counts(one: dict[str, Any]) -> None:
    """Part of a character, or an id that the tokenizer does not know: its arrival is a token's."""
    ended = {**one, "finish_reason": "length"}
    stream = [event(id="1", choices=[{"index": 0, **choice}]) for choice in (one, one, one, ended)]
    answer = read([HEAD, *map(chunk, stream), b"0\r\n\r\n"])
    assert (len(answer.arrivals), answer.finished) == (3, True)


def test_all_tokens_in_the_last_event() -> None:
    """A busy server sends them at once; without text only its usage tells that there were any."""
    last = event(id="1", choices=[{"index": 0, "text": "", "finish_reason": "length"}])
    answer = read([HEAD, chunk(last), chunk(USAGE), chunk(DONE), b"0\r\n\r\n"])
    assert (list(answer.arrivals), answer.finished) == ([4.0], True)
    assert list(read([HEAD, chunk(last), b"0\r\n\r\n"]).arrivals) == []
