"""An OpenAI-compatible server that misbehaves on order: a real one on its own port, in threads of this process."""

import contextlib
import json
import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from tokenizers import Tokenizer

TOKENS = 6
Behave = Callable[[int], str]
"""Number of the request (from 0) -> "" (well), "503", "error event", "typed error", "break", "die", "stall",
"close", "no usage"."""


@dataclass
class OddServer:
    """A running server."""

    url: str
    seen: list[dict[str, Any]] = field(default_factory=list)
    """Bodies of its completions, in order."""
    keys: list[str | None] = field(default_factory=list)


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 512


def count_tokens(tokenizer: Tokenizer | None, asked: dict[str, Any]) -> int:
    """Tokens of a prompt: a text gets special tokens, token ids are taken as they are, a chat is its words alone."""
    if tokenizer is None:
        return 7
    if "messages" in asked:
        return sum(len(tokenizer.encode(one["content"], add_special_tokens=False).ids) for one in asked["messages"])
    return len(tokenizer.encode(asked["prompt"]).ids if isinstance(asked["prompt"], str) else asked["prompt"])


@contextlib.contextmanager
def serve(
    behave: Behave = lambda _: "",
    *,
    each_s: float = 0.002,
    tls: ssl.SSLContext | None = None,
    tokenizer: Tokenizer | None = None,
) -> Iterator[OddServer]:
    """Serve until the block ends; with a tokenizer, answer /tokenize and count prompts as vLLM does."""
    lock = threading.Lock()
    stopping = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            if self.path == "/v1/models":
                self.answer(200, {"data": [{"id": "odd"}]})
            else:
                self.answer(404, {"detail": "Not Found"})

        def answer(self, status: int, said: Any) -> None:
            body = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path == "/tokenize" and tokenizer is not None:
                ids = tokenizer.encode(asked["prompt"], add_special_tokens=asked["add_special_tokens"]).ids
                self.answer(200, {"count": len(ids), "max_model_len": 2048, "tokens": ids, "token_strs": None})
                return
            if not self.path.endswith("/completions"):
                self.answer(404, {"detail": "Not Found"})
                return
            usage = {"prompt_tokens": count_tokens(tokenizer, asked), "completion_tokens": TOKENS}
            if asked["max_tokens"] == 1:  # the request before the load
                self.answer(200, {"choices": [{"finish_reason": "length"}], "usage": usage})
                return
            with lock:
                number = len(server.seen)
                server.seen.append(asked)
                server.keys.append(self.headers["Authorization"])
            how = behave(number)
            if how == "503":
                self.answer(503, {"error": {"message": "overloaded"}})
            elif how == "die":
                tcp.shutdown_soon()
                self.connection.close()
            elif how == "stall":
                stopping.wait(30)
                self.connection.close()
            elif not asked.get("stream"):
                choice = {"finish_reason": "stop", "message": {"content": "odd"}}
                self.answer(200, {"choices": [choice], "usage": usage})
            else:
                self.stream(how, usage, chat="messages" in asked)

        def stream(self, how: str, usage: dict[str, int], *, chat: bool) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Transfer-Encoding", "chunked")
            if how == "close":
                self.send_header("Connection", "close")
                self.close_connection = True
            self.end_headers()
            if chat:
                self.event({"choices": [{"delta": {"role": "assistant", "content": ""}, "finish_reason": None}]})
            for token in range(TOKENS):
                time.sleep(each_s)
                if how == "break" and token == 3:
                    self.connection.shutdown(socket.SHUT_RDWR)
                    self.close_connection = True
                    return
                if how == "error event" and token == 3:
                    self.event({"error": {"message": "EngineCore died"}})
                    break
                if how == "typed error" and token == 3:
                    self.chunk(b"event: error\ndata: EngineCore died\n\n")
                    break
                piece = {"delta": {"content": "data: \n\n"}} if chat else {"text": 'x "error" data: \n\n'}
                is_end = token == TOKENS - 1 and how != "no usage"
                self.event({"choices": [piece | {"finish_reason": "stop" if is_end else None}]})
            if how == "no usage":  # the end comes alone, and brings no token
                self.event({"choices": [None]})
                end = {"delta": {}} if chat else {"text": ""}
                self.event({"choices": [end | {"finish_reason": "stop"}]})
            else:
                self.event({"choices": [], "usage": usage})
            self.chunk(b"data: [DONE]\n\n")
            self.chunk(b"")

        def event(self, said: Any) -> None:
            self.chunk(b"data: " + json.dumps(said).encode() + b"\n\n")

        def chunk(self, payload: bytes) -> None:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(payload), payload))

        def handle(self) -> None:
            with contextlib.suppress(OSError, ValueError):
                super().handle()

    class Stoppable(_Server):
        open_sockets: set[socket.socket]

        def get_request(self) -> tuple[Any, Any]:
            accepted, address = super().get_request()
            self.open_sockets.add(accepted)
            return accepted, address

        def handle_error(self, *_: Any) -> None:
            pass

        def shutdown_soon(self) -> None:
            def end() -> None:
                self.shutdown()
                self.socket.close()
                for accepted in self.open_sockets:
                    with contextlib.suppress(OSError):
                        accepted.shutdown(socket.SHUT_RDWR)

            threading.Thread(target=end, daemon=True).start()

    tcp = Stoppable(("127.0.0.1", 0), Handler)
    tcp.open_sockets = set()
    if tls:
        tcp.socket = tls.wrap_socket(tcp.socket, server_side=True)
    server = OddServer(f"{'https' if tls else 'http'}://127.0.0.1:{tcp.server_address[1]}")
    thread = threading.Thread(target=tcp.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        stopping.set()
        tcp.shutdown()
        tcp.server_close()
