"""A server on loopback that answers each request with prepared bytes, whatever it was asked."""

import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping

STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
MODELS = b'{"object":"list","data":[{"id":"m"}]}'


def answer(body: bytes, status: str = "200 OK", kind: str = "application/json", *headers: str) -> bytes:
    """A complete answer."""
    lines = [
        f"HTTP/1.1 {status}",
        f"Content-Type: {kind}",
        f"Content-Length: {len(body)}",
        "Connection: close",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


def stream(*events: object, done: bool = True) -> bytes:
    """A stream of these events (bytes as they are), with [DONE]."""
    lines = [event if isinstance(event, bytes) else b"data: " + json.dumps(event).encode() for event in events]
    return STREAM + b"\n\n".join([*lines, *([b"data: [DONE]"] if done else []), b""])


def delta(finish: str | None = None, **fields: object) -> dict[str, object]:
    """A chat's event."""
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": finish}]}


@contextlib.contextmanager
def serve(answers: Mapping[str, bytes], *, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """The URL of a server; `answers` by path, "" for all others (without it they get nothing)."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=_accept, args=(listening, answers, tls), daemon=True).start()
        yield f"{'https' if tls else 'http'}://127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)  # close alone leaves the thread in accept(), which holds a descriptor


def _accept(listening: socket.socket, answers: Mapping[str, bytes], tls: ssl.SSLContext | None) -> None:
    with contextlib.suppress(OSError):
        while True:
            connection, _ = listening.accept()
            threading.Thread(target=_answer, args=(connection, answers, tls), daemon=True).start()


def _receive(connection: socket.socket) -> bytes:
    """The next bytes. ConnectionResetError: the client left in the middle of its request."""
    if piece := connection.recv(65536):
        return piece
    raise ConnectionResetError


def _answer(connection: socket.socket, answers: Mapping[str, bytes], tls: ssl.SSLContext | None) -> None:
    with contextlib.suppress(OSError), connection:
        if tls is not None:
            connection = tls.wrap_socket(connection, server_side=True)
        head = b""
        while b"\r\n\r\n" not in head:
            head += _receive(connection)
        path = head.split(b" ")[1].decode()
        length = int(
            dict(line.split(b": ", 1) for line in head.split(b"\r\n") if b": " in line).get(b"Content-Length", 0)
        )
        body = head.partition(b"\r\n\r\n")[2]
        while len(body) < length:
            body += _receive(connection)
        if (prepared := answers.get(path, answers.get(""))) is None:
            connection.recv(1)  # silent, until the client leaves
            return
        connection.sendall(prepared)
        connection.shutdown(socket.SHUT_WR)
