"""A server whose truth is known: first token `--first-ms` after the request, then one each `--each-ms`.

    python -m benchmarks.truth_server --port 9000

It speaks as much of the OpenAI API as load clients need: /v1/models, and streams of /v1/completions and
/v1/chat/completions as vLLM writes them, an event for each token, usage at the end. `GET /truth` tells what it did: how
late its tokens left against their schedule (its own fault, not the client's), and its CPU. An epoll loop with a timer
wheel of 0.25 ms: on the cores that it shares with the client under test it should cost little.
"""

import argparse
import json
import resource
import select
import signal
import socket
from array import array
from time import monotonic
from typing import Any

TICK_S = 0.00025
HEAD = (
    b"HTTP/1.1 200 OK\r\ndate: Mon, 01 Jan 2024 00:00:00 GMT\r\nserver: truth\r\n"
    b"content-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
)


def make_chunk(payload: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(payload), payload)


def make_events(chat: bool, tokens: int) -> tuple[bytes, bytes]:
    """One token's chunk, and what follows the last."""
    kind = "chat.completion.chunk" if chat else "text_completion"
    base = {
        "id": f"{'chatcmpl' if chat else 'cmpl'}-8f2f3c1e7a",
        "object": kind,
        "created": 1700000000,
        "model": "truth",
    }
    body: dict[str, Any] = {"delta": {"content": " token"}} if chat else {"text": " token"}
    choice = {"index": 0, **body, "logprobs": None, "finish_reason": None}
    usage = {"prompt_tokens": 20, "total_tokens": 20 + tokens, "completion_tokens": tokens}

    def write(**fields: Any) -> bytes:
        return b"data: " + json.dumps(base | fields, separators=(",", ":")).encode() + b"\n\n"

    last = make_chunk(write(choices=[], usage=usage)) + make_chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
    return make_chunk(write(choices=[choice])), last


def make_whole(chat: bool) -> bytes:
    """An answer without streaming, of one token."""
    said: dict[str, Any] = {"message": {"role": "assistant", "content": " token"}} if chat else {"text": " token"}
    choice = {"index": 0, **said, "finish_reason": "length"}
    usage = {"prompt_tokens": 20, "total_tokens": 21, "completion_tokens": 1}
    return make_json({"id": "1", "object": "text_completion", "model": "truth", "choices": [choice], "usage": usage})


def make_json(said: Any) -> bytes:
    body = json.dumps(said).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)


class Client:
    """A connection, and the answer under way on it."""

    __slots__ = ("due_s", "event", "head", "inbox", "last", "left", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.inbox = b""
        self.left = 0
        self.head = b""  # goes out with the first token


class TruthServer:
    def __init__(self, port: int, first_s: float, each_s: float, tokens: int) -> None:
        self.first_s, self.each_s, self.tokens = first_s, each_s, tokens
        self.listener = socket.create_server(("127.0.0.1", port), backlog=4096)
        self.listener.setblocking(False)
        self.poll = select.epoll()
        self.poll.register(self.listener.fileno(), select.EPOLLIN)
        self.clients: dict[int, Client] = {}
        self.events = {chat: make_events(chat, tokens) for chat in (False, True)}
        self.wheel: dict[int, list[Client]] = {}
        self.tick = int(monotonic() / TICK_S)
        self.late = array("d")
        self.answered = 0

    def run(self) -> None:
        while True:
            wait_s = max(0.0, (self.tick + 1) * TICK_S - monotonic()) if self.wheel else 1.0
            select.select([self.poll], [], [], wait_s)  # epoll's own timeout is in whole milliseconds
            for fd, _ in self.poll.poll(0):
                if fd == self.listener.fileno():
                    self.accept()
                elif client := self.clients.get(fd):
                    self.read(client)
            self.turn()

    def accept(self) -> None:
        for _ in range(64):
            try:
                sock, _ = self.listener.accept()
            except BlockingIOError:
                return
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.clients[sock.fileno()] = Client(sock)
            self.poll.register(sock.fileno(), select.EPOLLIN)

    def drop(self, client: Client) -> None:
        self.clients.pop(client.sock.fileno(), None)
        client.left = 0
        client.sock.close()

    def read(self, client: Client) -> None:
        try:
            data = client.sock.recv(65536)
        except OSError:
            data = b""
        if not data:
            self.drop(client)
            return
        client.inbox += data
        head, found, body = client.inbox.partition(b"\r\n\r\n")
        if not found:
            return
        length = next(
            (int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
        )
        if len(body) < length:
            return
        client.inbox = body[length:]
        self.answer(client, head, body[:length])

    def answer(self, client: Client, head: bytes, body: bytes) -> None:
        path = head.split(b" ", 2)[1].decode()
        if head.startswith(b"GET"):
            self.answer_get(client, path)
            return
        client.due_s = monotonic() + self.first_s
        if b'"stream": true' in body or b'"stream":true' in body:
            client.event, client.last = self.events["chat" in path]
            client.left = self.tokens
            client.head = HEAD
        else:  # what clients ask before a load, to see whether the server takes their request
            client.event, client.last, client.left = make_whole("chat" in path), b"", 1
        self.schedule(client)

    def answer_get(self, client: Client, path: str) -> None:
        if path.startswith("/truth"):
            late = sorted(self.late)
            use = resource.getrusage(resource.RUSAGE_SELF)
            said: Any = {"answered": self.answered, "events": len(late), "cpu_s": use.ru_utime + use.ru_stime}
            if late:
                said |= {f"late_p{p}_ms": late[int((len(late) - 1) * p / 100)] * 1e3 for p in (50, 99, 100)}
            self.late = array("d")
            self.answered = 0
        else:
            said = {"object": "list", "data": [{"id": "truth", "object": "model", "max_model_len": 8192}]}
        client.sock.send(make_json(said))

    def schedule(self, client: Client) -> None:
        self.wheel.setdefault(max(int(client.due_s / TICK_S), self.tick) + 1, []).append(client)

    def turn(self) -> None:
        """Send what is due."""
        reached = int(monotonic() / TICK_S)
        if not self.wheel:
            self.tick = reached
        while self.tick < reached:
            self.tick += 1
            for client in self.wheel.pop(self.tick, ()):
                self.send_token(client)

    def send_token(self, client: Client) -> None:
        if not client.left:
            return
        client.left -= 1
        data = client.event if client.left else client.event + client.last
        if client.head:
            data, client.head = client.head + data, b""
        try:
            client.sock.send(data)
        except OSError:
            self.drop(client)
            return
        self.late.append(monotonic() - client.due_s)
        if client.left:
            client.due_s += self.each_s
            self.schedule(client)
        else:
            self.answered += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--first-ms", type=float, default=50.0)
    parser.add_argument("--each-ms", type=float, default=20.0)
    parser.add_argument("--tokens", type=int, default=128)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(SystemExit(0)))
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    TruthServer(options.port, options.first_ms / 1e3, options.each_ms / 1e3, options.tokens).run()


if __name__ == "__main__":
    main()
