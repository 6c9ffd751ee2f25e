"""The door: the listening socket of a service, from its first second to its last.

The supervisor binds and listens once. The serving child inherits the very same socket: no proxy, and the kernel's queue
of connections is one for both. So nobody is refused; who accepts decides who answers:

    open    the supervisor accepts, and answers 503 with what is happening (/metrics: our own figures)
    shut    only the serving child accepts

The child tells when it accepts, and only then the door is shut; it is opened again before a child that is ending closes
its side. What lies in the queue at either moment is answered by the other one. The server's TLS is spoken here too.
"""

import asyncio
import contextlib
import hmac
import json
import resource
import socket
import ssl
import threading
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from raylaunch.base.errors import LaunchFileError, PortTakenError
from raylaunch.base.ports import check_port_free

_BACKLOG = 2048
"""As uvicorn's, which sets it anew on the same socket; the kernel cuts it to net.core.somaxconn."""
_HEAD_BYTES = 64 << 10
_ACCEPTS_AT_ONCE = 256
_NO_ROOM_S = 0.5
_MOST = 16384
"""Connections that are answered at once, where the limit of open files allows twice as many."""
_REQUEST_S = 10.0
_FINISH_S = 1.0
_LINGER_BYTES = 16 << 20
_LINGER_S = 2.0


@dataclass(frozen=True)
class Notice:
    """What the door tells whoever comes."""

    state: str
    text: str
    """What is happening, for people: "restarting: waiting for GPUs, 8 of 16"."""
    retry_after_s: int
    metrics: str
    """Our figures in Prometheus' text format."""


def listen(host: str, port: int) -> socket.socket:
    """Bind the address to serve on and listen, so that clients wait instead of being refused.

    Raises:
        PortTakenError: somebody has it, or it is no address of this machine.
    """
    check_port_free(host, port)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        raise PortTakenError(
            f"{host}:{port}: {error.strerror}", fix="choose another with --set server.port=8081"
        ) from error
    listening.setblocking(False)  # for both sides: the flag lives in the socket, not in the process
    return listening


def make_tls(options: Mapping[str, Any]) -> ssl.SSLContext | None:
    """TLS as the launch's `server:` block has it (uvicorn's own reading of it); None without a certificate.

    Raises:
        LaunchFileError: certificate, key or ciphers cannot be used.
    """
    if not options.get("ssl_certfile"):
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"))
        context.verify_mode = ssl.VerifyMode(int(options.get("ssl_cert_reqs") or 0))
        if options.get("ssl_ca_certs"):
            context.load_verify_locations(options["ssl_ca_certs"])
        if options.get("ssl_ciphers"):
            context.set_ciphers(options["ssl_ciphers"])
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise LaunchFileError(
            f"server.ssl_certfile {options['ssl_certfile']}: TLS cannot be set up with it: {error}",
            fix="server.ssl_certfile and server.ssl_keyfile name PEM files of this machine that belong together",
        ) from error
    return context


class Door:
    """The stand-in answers, given from a thread of its own."""

    def __init__(
        self,
        listening: socket.socket,
        look: Callable[[], Notice],
        *,
        tls: ssl.SSLContext | None = None,
        api_keys: tuple[str, ...] = (),
    ) -> None:
        self._listening, self._look, self._tls, self._api_keys = listening, look, tls, api_keys
        self._loop = asyncio.new_event_loop()
        self._is_open = False
        self._welcomed: set[asyncio.Task[None]] = set()
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._room = _MOST if soft == resource.RLIM_INFINITY else min(_MOST, soft // 2)
        """So many are let in at once: files are left to start the next engine with."""
        self._thread = threading.Thread(target=self._loop.run_forever, name="door", daemon=True)
        self._thread.start()

    def change(self, *, tls: ssl.SSLContext | None, api_keys: tuple[str, ...]) -> None:
        """Take over what a changed launch says; it counts from the next `open` on."""
        self._tls, self._api_keys = tls, api_keys

    def open(self) -> None:
        """Accept and answer until `shut`."""
        self._run(self._open())

    def shut(self) -> None:
        """Accept no more; whoever was let in still gets an answer."""
        self._run(self._shut())

    def close(self) -> None:
        """Shut, and end the thread; the socket itself stays."""
        if self._thread.is_alive():
            self.shut()
            self._run(self._finish())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def _run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    # asyncio's own server would lose a connection that it has accepted when it is closed (3.11 to 3.13), and close the
    # socket with itself; so accepting is done by hand.

    async def _open(self) -> None:
        self._is_open = True
        self._loop.add_reader(self._listening.fileno(), self._accept)

    async def _shut(self) -> None:
        self._is_open = False
        self._loop.remove_reader(self._listening.fileno())

    def _accept(self) -> None:
        for _ in range(_ACCEPTS_AT_ONCE):
            if len(self._welcomed) >= self._room:
                self._pause()
                return
            try:
                connection, _address = self._listening.accept()
            except (BlockingIOError, ConnectionAbortedError):  # the serving child took it, or the client went
                return
            except OSError:  # out of file descriptors
                self._pause()
                return
            connection.setblocking(False)
            task = self._loop.create_task(self._welcome(connection))
            self._welcomed.add(task)
            task.add_done_callback(self._welcomed.discard)

    def _pause(self) -> None:
        """Let the queue wait."""
        self._loop.remove_reader(self._listening.fileno())
        self._loop.call_later(_NO_ROOM_S, self._accept_again)

    def _accept_again(self) -> None:
        if self._is_open:
            self._loop.add_reader(self._listening.fileno(), self._accept)

    async def _finish(self) -> None:
        """Give the last ones their answer."""
        if self._welcomed:
            await asyncio.wait(self._welcomed, timeout=_FINISH_S)

    async def _welcome(self, connection: socket.socket) -> None:
        reader = asyncio.StreamReader(limit=_HEAD_BYTES)
        protocol = asyncio.StreamReaderProtocol(reader)
        try:
            transport, _ = await self._loop.connect_accepted_socket(
                lambda: protocol, connection, ssl=self._tls, ssl_handshake_timeout=_REQUEST_S if self._tls else None
            )
        except (OSError, ssl.SSLError):  # no TLS spoken, or gone
            connection.close()
            return
        await self._answer(reader, asyncio.StreamWriter(transport, protocol, reader, self._loop))

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError):
            async with asyncio.timeout(_REQUEST_S):
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                writer.write(make_answer(head, self._look(), self._api_keys))
                await writer.drain()
            # A body that nobody reads would make the kernel reset the connection before the answer is read.
            async with asyncio.timeout(_LINGER_S):
                if writer.can_write_eof():
                    writer.write_eof()
                read = 0
                while read < _LINGER_BYTES and (chunk := await reader.read(65536)):
                    read += len(chunk)
        writer.close()


def make_answer(head: str, notice: Notice, api_keys: tuple[str, ...]) -> bytes:
    """The whole answer to a request's head: /metrics has our figures, everything else is a 503 as OpenAI's API has it.

    Where the server has API keys, only their holders are told what is happening.
    """
    first, *rest = head.split("\r\n")
    method, _, target = first.partition(" ")
    path = target.partition(" ")[0].partition("?")[0]
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}
    if path in ("/metrics", "/metrics/"):
        return _pack(HTTPStatus.OK, "text/plain; version=0.0.4; charset=utf-8", notice.metrics, (), method)
    given = headers.get("authorization", "").removeprefix("Bearer ").encode("latin-1")
    known = not api_keys or any(hmac.compare_digest(given, key.encode()) for key in api_keys)
    text = notice.text if known else notice.state
    error = {"message": text, "type": HTTPStatus.SERVICE_UNAVAILABLE.phrase, "param": None, "code": 503}
    retry = (f"Retry-After: {notice.retry_after_s}",)
    return _pack(HTTPStatus.SERVICE_UNAVAILABLE, "application/json", json.dumps({"error": error}), retry, method)


def _pack(status: HTTPStatus, kind: str, body: str, more: tuple[str, ...], method: str) -> bytes:
    content = body.encode()
    lines = [f"HTTP/1.1 {status.value} {status.phrase}", f"Content-Type: {kind}", f"Content-Length: {len(content)}"]
    lines += ["Connection: close", *more, "", ""]
    return "\r\n".join(lines).encode() + (b"" if method == "HEAD" else content)
