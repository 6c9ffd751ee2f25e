"""The listening socket of a service, open from its start to its end, and the answers while no engine is ready.

The supervisor binds it once. The API server inherits the same socket: there is no proxy, and the kernel has one
queue of connections for both, so no connection is refused. Whichever process accepts a connection answers it:

    accepting    the supervisor answers 503 with what is happening (/metrics: the service's own metrics)
    paused       the API server accepts alone

The listener pauses only once the child reports that it accepts, and resumes before a child that ends closes the
socket. The other process answers what is in the queue at that moment. The listener speaks the server's TLS.

A second try of an official client (RequestHead.is_retry) is held until an engine accepts, or for 58 s, or until just
before its own timeout: such a client has decided to wait, and has few tries. It is answered with Retry-After: 1 when an
engine accepts, and else with the longest there is, since it may have one try left. All other requests are answered at
once.
"""

import asyncio
import contextlib
import resource
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from raylaunch.base.errors import LaunchFileError, PortTakenError
from raylaunch.base.ports import OTHER_PORT, check_port_free
from raylaunch.base.tls import CertificateFileError, load_pair, naming
from raylaunch.serve.start_forecast import LONGEST_S
from raylaunch.serve.unready_answer import AnswerRules, Notice, RequestHead, make_answer

_BACKLOG = 2048
"""As uvicorn's, which sets it again on the same socket; the kernel's limit is net.core.somaxconn."""
_HEAD_BYTES = 64 << 10
_ACCEPTS_AT_ONCE = 256
_RETRY_ACCEPT_S = 0.5
_MAX_CONNECTIONS = 16384
"""Answered at once, where the limit of open files allows twice as many."""
_REQUEST_S = 10.0
_HOLD_S = 58.0
"""Below the 60 s after which proxies give a request up."""
_PATIENCE_SHARE = 0.9
"""Of a client's own timeout: an answer with Retry-After makes it wait longer than its timeout does."""
_FINISH_S = 1.0
_LINGER_BYTES = 16 << 20
_LINGER_S = 2.0
_NO_RULES = AnswerRules()


def listen(host: str, port: int) -> socket.socket:
    """Bind the address of the service and listen, so that clients wait instead of being refused.

    Raises:
        PortTakenError: another process has it, or it is no address of this machine.
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
        raise PortTakenError(f"{host}:{port}: {error.strerror}", fix=OTHER_PORT) from error
    listening.setblocking(False)  # for both processes: the flag belongs to the socket
    return listening


def make_tls(options: Mapping[str, Any]) -> ssl.SSLContext | None:
    """The TLS context that uvicorn makes of the launch's `server:` block; None without a certificate.

    Raises:
        LaunchFileError: certificate, key or ciphers cannot be used.
    """
    if not options.get("ssl_certfile"):
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # vLLM has no option for a passphrase: uvicorn would ask for it on the terminal, again and again
        key, authorities = options.get("ssl_keyfile"), options.get("ssl_ca_certs")
        load_pair(context, Path(options["ssl_certfile"]), Path(key) if key else None)
        context.verify_mode = ssl.VerifyMode(int(options.get("ssl_cert_reqs") or 0))
        if authorities:
            with naming(Path(authorities)):
                context.load_verify_locations(authorities)
    except CertificateFileError as error:
        raise LaunchFileError(
            f"server: TLS cannot be set up: {error.what}",
            fix="server.ssl_certfile, ssl_keyfile and ssl_ca_certs must name PEM files of this machine; the key must be"
            " that of the first certificate in ssl_certfile, without a passphrase",
        ) from error
    try:
        if options.get("ssl_ciphers"):
            context.set_ciphers(options["ssl_ciphers"])
    except ssl.SSLError as error:
        raise LaunchFileError(
            f"server.ssl_ciphers: OpenSSL knows no cipher in {options['ssl_ciphers']!r}", fix="leave it out"
        ) from error
    return context


class Listener:
    """Answers for the service while no engine is ready, in a thread of its own."""

    def __init__(
        self,
        listening: socket.socket,
        get_notice: Callable[[], Notice],
        *,
        tls: ssl.SSLContext | None = None,
        rules: AnswerRules = _NO_RULES,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Prepare to answer; `resume` starts it. `sleep` ends a hold."""
        self._listening, self._get_notice, self._tls, self._rules = listening, get_notice, tls, rules
        self._sleep = sleep
        self._loop = asyncio.new_event_loop()
        self._is_accepting = False
        self._change = asyncio.Event()
        """Set at the next pause or resume, and then replaced."""
        self.held = 0
        """Requests that wait for an engine."""
        self._answering: set[asyncio.Task[None]] = set()
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._limit = _MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else min(_MAX_CONNECTIONS, soft // 2)
        """Connections at once: enough files stay free to start the next engine."""
        self._thread = threading.Thread(target=self._loop.run_forever, name="listener", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port of the socket."""
        return int(self._listening.getsockname()[1])

    def change(self, *, tls: ssl.SSLContext | None, rules: AnswerRules) -> None:
        """Use the settings of a changed launch from the next `resume` on."""
        self._tls, self._rules = tls, rules

    def resume(self) -> None:
        """Accept and answer until `pause`."""
        self._run(self._resume())

    def pause(self) -> None:
        """Stop accepting; connections that were accepted still get an answer."""
        self._run(self._pause())

    def close(self) -> None:
        """Stop accepting and end the thread; the socket itself stays open."""
        if self._thread.is_alive():
            self.pause()
            self._run(self._finish())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def _run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    # asyncio's own server, when it is closed, loses a connection that it has just accepted (3.11 to 3.13), and closes
    # the socket; so this class accepts by itself.

    async def _resume(self) -> None:
        self._is_accepting = True
        self._wake()
        self._loop.add_reader(self._listening.fileno(), self._accept)

    async def _pause(self) -> None:
        self._is_accepting = False
        self._wake()
        self._loop.remove_reader(self._listening.fileno())

    def _wake(self) -> None:
        """Let the held requests look again."""
        self._change.set()
        self._change = asyncio.Event()

    def _accept(self) -> None:
        for _ in range(_ACCEPTS_AT_ONCE):
            if len(self._answering) >= self._limit:
                self._accept_later()
                return
            try:
                connection, _address = self._listening.accept()
            except (BlockingIOError, ConnectionAbortedError):  # the API server took it, or the client is gone
                return
            except OSError:  # out of file descriptors
                self._accept_later()
                return
            connection.setblocking(False)
            task = self._loop.create_task(self._serve_connection(connection))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)

    def _accept_later(self) -> None:
        """Leave connections in the kernel's queue for a moment."""
        self._loop.remove_reader(self._listening.fileno())
        self._loop.call_later(_RETRY_ACCEPT_S, self._accept_again)

    def _accept_again(self) -> None:
        if self._is_accepting:
            self._loop.add_reader(self._listening.fileno(), self._accept)

    async def _finish(self) -> None:
        """Wait for the last answers."""
        if self._answering:
            await asyncio.wait(self._answering, timeout=_FINISH_S)

    async def _serve_connection(self, connection: socket.socket) -> None:
        reader = asyncio.StreamReader(limit=_HEAD_BYTES)
        protocol = asyncio.StreamReaderProtocol(reader)
        try:
            transport, _ = await self._loop.connect_accepted_socket(
                lambda: protocol, connection, ssl=self._tls, ssl_handshake_timeout=_REQUEST_S if self._tls else None
            )
        except (OSError, ssl.SSLError):  # the client speaks no TLS, or is gone
            connection.close()
            return
        await self._answer(reader, asyncio.StreamWriter(transport, protocol, reader, self._loop))

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError):
            async with asyncio.timeout(_REQUEST_S):
                request = RequestHead.parse((await reader.readuntil(b"\r\n\r\n")).decode("latin-1"))
            hold_s = max(0.0, min(_HOLD_S, request.patience_s * _PATIENCE_SHARE))
            is_late = request.is_retry and await self._hold(reader, hold_s)
            notice = self._get_notice()
            if notice.retry_after_s is not None and (is_late or not self._is_accepting):  # if not: an engine accepts
                notice = replace(notice, retry_after_s=LONGEST_S if is_late else 1)
            async with asyncio.timeout(_REQUEST_S):
                writer.write(make_answer(request, notice, self._rules))
                await writer.drain()
            # With an unread body the kernel would reset the connection before the client has read the answer.
            async with asyncio.timeout(_LINGER_S):
                if writer.can_write_eof():
                    writer.write_eof()
                read = 0
                while read < _LINGER_BYTES and (chunk := await reader.read(65536)):
                    read += len(chunk)
        writer.close()

    async def _hold(self, reader: asyncio.StreamReader, hold_s: float) -> bool:
        """Wait for an engine to accept; not for longer than `hold_s`, nor for a client that goes, nor where many wait.

        Returns:
            Whether this time is over.

        Raises:
            ConnectionResetError: the client is gone.
        """
        if self.held >= self._limit // 2 or not self._is_accepting or self._get_notice().retry_after_s is None:
            return False
        self.held += 1
        gone, is_over = asyncio.ensure_future(_read_to_end(reader)), asyncio.ensure_future(self._sleep(hold_s))
        ends = {gone, is_over, asyncio.ensure_future(self._change.wait())}
        try:
            done, waiting = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.held -= 1
        for end in waiting:
            end.cancel()
        await asyncio.gather(*ends, return_exceptions=True)
        if gone in done:
            raise ConnectionResetError
        return {is_over} == done


async def _read_to_end(reader: asyncio.StreamReader) -> None:
    """Read a request's body, which is not needed, until its client has gone."""
    while await reader.read(65536):
        pass
