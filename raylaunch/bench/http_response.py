"""One answer of an OpenAI-compatible server, read byte by byte: HTTP/1.1 framing, server-sent events, token usage.

Why not an HTTP library: for 500 streams of 50 tokens/s, aiohttp takes 3.7 times the CPU (2.3 times on uvloop) and adds
20 to 60 ms to the median time to first token (benchmarks/results/http-clients.json). This reads what such servers send:
status line and headers, `Transfer-Encoding: chunked`, `Content-Length` or until the connection closes, keep-alive,
events of `data:` lines. JSON is decoded for the first output event, for events with usage or an error, and for the last
one; the others are counted.
"""

import json
from array import array
from collections.abc import Mapping
from typing import Any

from raylaunch.base.errors import RaylaunchError
from raylaunch.base.http_client import describe_error
from raylaunch.bench.output_events import FAILED, has_output

_MAX_HEAD_BYTES = 64 << 10
_UNTIL_CLOSE = -1
_STREAM_STARTS = (b"data:", b"event:", b"id:", b"retry:", b":")


class WireError(RaylaunchError):
    """The bytes are not an HTTP/1.1 answer."""


def make_head(method: str, host: str, path: str, headers: Mapping[str, str]) -> bytes:
    """The head of a request, all but its Content-Length line and the blank line."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n").encode("latin-1")


def make_request(head: bytes, body: bytes) -> bytes:
    """A complete request."""
    return b"%sContent-Length: %d\r\n\r\n%s" % (head, len(body), body)


class HttpAnswer:
    """One answer while it is read. Times are the caller's clock, in seconds."""

    __slots__ = (
        *("_body", "_decode", "_head", "_left", "_rest", "_tail", "_trailer"),
        *("arrivals", "broke", "error", "finished", "keep_alive", "last_s", "started", "status", "streaming"),
        *("tokens_in", "tokens_out"),
    )

    def __init__(self) -> None:
        self.status = 0
        self.streaming = False
        """Whether it came as server-sent events."""
        self.keep_alive = True
        self.started = False
        """Whether a byte of it came."""
        self.arrivals = array("d")
        """When each output event was read: events of one read share its time."""
        self.last_s = 0.0
        """When the last byte was read."""
        self.tokens_in: int | None = None
        """By the server's usage, as `tokens_out`; None where it sent none."""
        self.tokens_out: int | None = None
        self.error: str | None = None
        """The error that the server sent, in a stream or as a body."""
        self.finished = False
        """Whether the stream had [DONE] or a finish reason."""
        self.broke = False
        """Whether the connection closed before the answer was complete."""
        self._head = bytearray()
        self._rest = b""
        self._tail = b""
        self._body: list[bytes] = []
        self._left: int | None = None  # bytes to come: of the body, or of the current chunk if _decode
        self._decode = False
        self._trailer = False

    def feed(self, data: bytes, now: float) -> bool:
        """Take what one read brought; returns whether the answer is complete.

        Raises:
            WireError: this is no HTTP/1.1 answer.
        """
        self.last_s = now
        if self.arrivals and not (self._rest or self._left or self._tail):
            # The steady state of a stream: this read is one chunk that is one event.
            cut = data.find(b"\r\n", 0, 10)
            if (
                cut > 0
                and data.startswith(b"data: {", cut + 2)
                and data.endswith(b"}\n\n\r\n")
                and data.count(b"\n\n") == 1
                and data[:cut].lower() == b"%x" % (len(data) - cut - 4)
            ):
                self._take(data[cut + 8 : -4], now)
                return False
        if not self.status:
            self.started = True
            body = self._read_head(data)
            if body is None:
                return False
            data = body
        if self._decode:
            return self._read_chunks(data, now)
        return self._read_plain(data, now)

    def close(self, now: float) -> None:
        """Take that the connection was closed; some gateways leave out the last chunk."""
        if self.status and ((self._left == _UNTIL_CLOSE and not self._decode) or (self.streaming and self.finished)):
            self._end_body()
        else:
            self.broke = True
        self.last_s = self.last_s or now
        self.keep_alive = False

    def _read_head(self, data: bytes) -> bytes | None:
        self._head += data
        end = self._head.find(b"\r\n\r\n")
        if end < 0:
            if len(self._head) > _MAX_HEAD_BYTES or not bytes(self._head[:5]).startswith(b"HTTP/"[: len(self._head)]):
                raise WireError(f"not an HTTP answer: {bytes(self._head[:60])!r}")
            return None
        status_line, *lines = bytes(self._head[:end]).decode("latin-1").split("\r\n")
        rest = bytes(self._head[end + 4 :])
        self._head.clear()
        version, _, code = status_line[:12].partition(" ")
        if not version.startswith("HTTP/1.") or not code.isdigit():
            raise WireError(f"not an HTTP/1.1 answer: {status_line[:60]!r}")
        if int(code) < 200:  # 100 Continue and the like: the answer follows
            return self._read_head(rest) if rest else None
        self.status = int(code)
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        self.keep_alive = headers.get("connection", "").lower() != "close" and version == "HTTP/1.1"
        self.streaming = headers.get("content-type", "").lower().startswith("text/event-stream")
        if (coding := headers.get("content-encoding", "identity").lower()) not in ("identity", ""):
            raise WireError(f"the answer is compressed ({coding}), which was not asked for")
        if headers.get("transfer-encoding", "").lower() == "chunked":
            self._decode, self._left = True, None
        else:
            length = headers.get("content-length", "")
            self._left = int(length) if length.isdigit() else _UNTIL_CLOSE
        return rest

    def _read_plain(self, data: bytes, now: float) -> bool:
        assert self._left is not None
        if self._left != _UNTIL_CLOSE:
            data = data[: self._left]
            self._left -= len(data)
        self._take_payload(data, now)
        if self._left == 0:
            self._end_body()
        return self._left == 0

    def _read_chunks(self, data: bytes, now: float) -> bool:
        """Undo the chunked framing; `_left` counts the current chunk's bytes with the CRLF behind it."""
        if self._rest:
            data, self._rest = self._rest + data, b""
        pieces: list[bytes] = []
        at, size, is_complete = 0, len(data), False
        while at < size:
            if self._left:
                payload = min(self._left - 2, size - at)
                if payload > 0:
                    pieces.append(data[at : at + payload])
                taken = min(self._left, size - at)
                at += taken
                self._left -= taken
                continue
            cut = data.find(b"\r\n", at)
            if cut < 0:
                self._rest = data[at:]
                break
            line = data[at:cut]
            at = cut + 2
            if self._trailer:
                if not line:
                    is_complete = True
                    break
                continue
            try:
                length = int(line.partition(b";")[0].replace(b"-", b"no"), 16)
            except ValueError:
                raise WireError(f"not a chunk's length: {line[:40]!r}") from None
            self._trailer = length == 0
            self._left = length + 2 if length else 0
        if pieces:
            self._take_payload(b"".join(pieces), now)
        if is_complete:
            self._end_body()
        return is_complete

    def _take_payload(self, payload: bytes, now: float) -> None:
        if not self.streaming and not self._body and self.status == 200:
            self.streaming = payload.startswith(_STREAM_STARTS)  # gateways send text/plain, or no type
        if not self.streaming:
            self._body.append(payload)
            return
        text = self._tail + payload
        if b"\r" in text:
            text = text.replace(b"\r\n", b"\n")
        *events, self._tail = text.split(b"\n\n")
        for event in events:
            self._take_event(event, now)

    def _take_event(self, event: bytes, now: float) -> None:
        """One event: its data lines joined, as the standard has it; comments (": ping") have no data."""
        if b"\n" in event or not event.startswith(b"data:"):
            split = event.removeprefix(b"\xef\xbb\xbf").split(b"\n")
            lines = [line[5:].removeprefix(b" ") for line in split if line.startswith(b"data:")]
            if event.startswith(b"error:"):  # llama.cpp's
                self._take_error(event[6:])
            elif lines and {b"event: error", b"event:error"} & {*split}:
                self._take_error(b"\n".join(lines))
            elif lines:
                self._take(b"\n".join(lines), now)
            return
        self._take(event[5:].strip(), now)

    def _take(self, data: bytes, now: float) -> None:
        """One event's data. Inside JSON a quote is escaped, so these searches do not meet the model's own words."""
        if (
            self.arrivals
            and b'"usage":{' not in data
            and b'"error"' not in data
            and b'"choices":[{' in data
            and b'"finish_reason":"' not in data
            and b'":""' not in data
            and b'"delta":{}' not in data
            and b'"delta":null' not in data
            and b'"content":null' not in data
        ):
            self.arrivals.append(now)
            return
        if data == b"[DONE]":
            self.finished = True
            return
        if not data:
            return  # a gateway's sign of life
        try:
            fields = json.loads(data)
        except (ValueError, RecursionError):
            self.error = f"an event that is not JSON: {data[:80]!r}"
            return
        if isinstance(fields, dict):
            self._look_at(fields, now)

    def _take_error(self, data: bytes) -> None:
        """An event of the type "error", whatever its data is."""
        try:
            self.error = describe_error(json.loads(data))
        except (ValueError, RecursionError):
            self.error = describe_error(data.decode(errors="replace"))

    def _take_usage(self, usage: Any) -> None:
        if isinstance(usage, dict):
            counts = (usage.get(name) for name in ("prompt_tokens", "completion_tokens"))
            self.tokens_in, self.tokens_out = (count if isinstance(count, int) else None for count in counts)

    def _look_at(self, fields: Mapping[str, Any], now: float) -> None:
        if error := fields.get("error"):
            self.error = describe_error(error)
        self._take_usage(fields.get("usage"))
        choices = fields.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        if not isinstance(choice, dict):
            return
        if reason := choice.get("finish_reason"):
            self.finished = True
            if reason in FAILED:
                self.error = self.error or f"the server ended the answer (finish_reason {reason})"
        if has_output(choice):
            self.arrivals.append(now)

    def _end_body(self) -> None:
        if self.streaming:
            if self._tail.strip().startswith(b"{"):  # JSON that is called a stream
                self._take_body(self._tail)
            elif self._tail.strip():
                self._take_event(self._tail.strip(b"\n"), self.last_s)
            if self.finished and not self.arrivals and self.tokens_out:
                self.arrivals.append(self.last_s)  # all its tokens in its last event, and no text: a busy server
            return
        self._take_body(b"".join(self._body))

    def _take_body(self, body: bytes) -> None:
        """A complete answer that is no stream."""
        try:
            fields = json.loads(body)
        except (ValueError, RecursionError):
            if self.status == 200:
                self.error = f"a body that is not JSON: {body[:80]!r}"
            else:
                self.error = body[:200].decode(errors="replace").strip()
            return
        if not isinstance(fields, dict):
            return
        self.finished = bool(fields.get("choices"))
        if self.status != 200 or fields.get("error") or not self.finished:
            self.error = describe_error(fields)
        self._take_usage(fields.get("usage"))
