"""Watches and ends the running engine from inside the API server: its pulse, its clients, its end (vLLM 0.25 to 0.33).

The data path is untouched but for one addition per engine step.
"""

import asyncio
import contextlib
import multiprocessing
import os
import socket
from collections.abc import Iterator
from typing import Any

import prometheus_client
import uvicorn
from prometheus_client import multiprocess
from prometheus_client.metrics_core import Metric

from raylaunch.base import processes
from raylaunch.base.ipc import ParentLink
from raylaunch.base.service_metrics import ServiceMetrics
from raylaunch.engine import metrics_folder
from raylaunch.engine.client_errors import DEATH
from raylaunch.engine.load_table import NOT_ACCEPTING
from raylaunch.engine.messages import Accepting, Drain, EnginePulse, FailClients, SocketShare, StopAccepting

PULSE_S = 0.5
GOODBYE_S = 2.0
"""For writing an error to every client."""


class EngineControl:
    """What the supervisor may know of, and do to, the engine that this process serves."""

    def __init__(self, client: Any, parent: ParentLink, share: SocketShare) -> None:
        """Prepare vLLM's AsyncLLM `client` before its app is built.

        Args:
            share: what it accepts on.
        """
        self._client, self._parent, self._share = client, parent, share
        self._moves = 0
        self._kv_cache_use: float | None = None
        self._server: uvicorn.Server | None = None
        self._collector = _Collector()
        self._cores = [*getattr(client.engine_core.resources.engine_manager, "processes", ())]
        DEATH.hold_errors(client)
        self._refuse_at_death()
        self._count_outputs()
        self._catch_server()
        self._collector.register(share)

    def _refuse_at_death(self) -> None:
        """Take no new requests as soon as vLLM knows that the engine is dead: it would fail each at once."""
        processor = self._client.output_processor
        propagate = processor.propagate_error

        def refuse_and_propagate(error: Exception) -> None:
            self._refuse()
            propagate(error)

        processor.propagate_error = refuse_and_propagate

    def _count_outputs(self) -> None:
        """Count what comes from the engine: tokens and finished requests, and the KV cache that a prefill fills."""
        core = self._client.engine_core
        get = core.get_output_async

        async def get_and_count() -> Any:
            outputs = await get()
            self._moves += len(outputs.outputs)
            stats = outputs.scheduler_stats
            if stats is not None and stats.kv_cache_usage != self._kv_cache_use:
                self._kv_cache_use = stats.kv_cache_usage
                self._moves += 1
            return outputs

        core.get_output_async = get_and_count

    def _catch_server(self) -> None:
        """Find out when uvicorn accepts; vLLM does not hand its server out (0.25 to 0.33)."""
        startup = uvicorn.Server.startup

        async def startup_and_report(server: uvicorn.Server, sockets: Any = None) -> None:
            await startup(server, sockets)
            self._server = server
            if self._share.private_fd is not None:
                await self._accept_privately(server, self._share.private_fd)
            self._parent.send(Accepting())

        uvicorn.Server.startup = startup_and_report  # type: ignore[assignment,method-assign]

    @staticmethod
    async def _accept_privately(server: uvicorn.Server, descriptor: int) -> None:
        """Accept on a second socket too, with the same app; uvicorn closes it with its own."""
        config = server.config

        def make_protocol() -> asyncio.Protocol:
            return config.http_protocol_class(  # type: ignore[call-arg]
                config=config, server_state=server.server_state, app_state=server.lifespan.state
            )

        listening = socket.socket(fileno=descriptor)
        loop = asyncio.get_running_loop()
        server.servers.append(await loop.create_server(make_protocol, sock=listening, ssl=config.ssl))

    async def follow(self) -> None:
        """Send pulses and obey the supervisor until it goes."""
        loop = asyncio.get_running_loop()
        loop.add_reader(0, self._obey)
        # The end of a supervisor closes stdin: clients then get their error. Its SIGTERM, which comes at the same
        # moment, would have vLLM cancel their requests (0.32: a bare "Internal Server Error").
        processes.outlive_parent()
        while True:
            running = self._client.output_processor.get_num_unfinished_requests()
            with contextlib.suppress(BrokenPipeError):
                is_dead, exits = bool(self._client.errored), [core.exitcode for core in self._cores if core.exitcode]
                self._parent.send(EnginePulse(running, self._moves, is_dead, core_exit=exits[0] if exits else None))
            await asyncio.sleep(PULSE_S)

    def _obey(self) -> None:
        messages = self._parent.receive()
        if self._parent.is_closed:
            asyncio.get_running_loop().remove_reader(0)
            is_one = self._share.api_servers == 1  # its parent is the supervisor; of several, the engine's process
            messages.append(FailClients("the service ended" if is_one else "the engine's process ended"))
        for message in messages:
            if isinstance(message, ServiceMetrics):
                self._collector.newest = message
            elif isinstance(message, Drain):
                asyncio.create_task(self._drain(message.linger_s))  # noqa: RUF006 (it ends this process)
            elif isinstance(message, StopAccepting):
                self._refuse()
            elif isinstance(message, FailClients):
                asyncio.create_task(self._fail(message.why))  # noqa: RUF006 (it ends this process)

    async def _drain(self, linger_s: float) -> None:
        """Have uvicorn stop: running requests finish, then it ends, and the engine with it.

        Args:
            linger_s: before that, answers close their connections, and those that are idle run into uvicorn's limit.
        """
        self._stop_accepting()
        if self._server is not None:
            if linger_s:
                self._close_after_answers(self._server)
                await asyncio.sleep(linger_s)
            self._server.should_exit = True

    def _stop_accepting(self) -> None:
        if self._server is not None:
            for listening in self._server.servers:  # now, and not at uvicorn's next tick
                listening.close()
            for task in getattr(self._server, "_accept_tasks", ()):  # vLLM's own, where a socket is shared (0.32)
                if getattr(task.get_coro(), "__name__", "") == "_accept":
                    task.cancel()
            if peers := getattr(self._server, "peer_loads", None):
                peers[0][peers[1]] = NOT_ACCEPTING
                self._server.peer_loads = ([NOT_ACCEPTING], 0)  # type: ignore[attr-defined]  # it still writes its load

    @staticmethod
    def _close_after_answers(server: uvicorn.Server) -> None:
        """Answer what begins from now on with Connection: close."""
        close = (b"connection", b"close")
        server.server_state.default_headers.append(close)
        server.config.encoded_headers.append(close)  # of these uvicorn makes the former anew, once a second

    def _refuse(self) -> None:
        """Take no request more, nor the next one on a connection that is open: the client asks another process."""
        self._stop_accepting()
        if self._server is not None:
            self._close_after_answers(self._server)
            for connection in [*self._server.server_state.connections]:
                if getattr(connection, "cycle", None):  # it has had a request; a new one gets its answer
                    connection.shutdown()  # closed if it is idle, else after its answer

    async def _fail(self, why: str) -> None:
        """Give every waiting client an error, streams an error event; then end this process and EngineCore."""
        self._refuse()
        await self._drain(0.0)
        self._client.engine_core.resources.engine_dead = True
        DEATH.fail(why)
        deadline = asyncio.get_running_loop().time() + GOODBYE_S
        while self._server is not None and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.05)
            if not self._server.server_state.tasks:
                break
        await asyncio.sleep(0.05)  # for the last bytes
        for child in multiprocessing.active_children():
            child.kill()
        os._exit(1)


class _Collector:
    """The supervisor's metrics among the engine's own."""

    newest: ServiceMetrics | None = None
    _is_replica = False

    def register(self, share: SocketShare) -> None:
        """Have /metrics show them; vLLM makes a registry for several processes itself, when it builds its app."""
        if metrics_folder.VARIABLE not in os.environ:
            prometheus_client.REGISTRY.register(self)
            return
        self._is_replica = share.private_fd is not None
        begin = multiprocess.MultiProcessCollector.__init__

        def begin_with_ours(collector: Any, registry: Any, path: str | None = None) -> None:
            begin(collector, None if self._is_replica else registry, path)  # type: ignore[no-untyped-call]
            registry.register(self)

        multiprocess.MultiProcessCollector.__init__ = begin_with_ours  # type: ignore[method-assign]

    def collect(self) -> Iterator[Metric]:
        """The families that the supervisor sent last; of several replicas, those of all engines too."""
        if self.newest is not None:
            yield from self.newest.collect()
            if self._is_replica:
                yield from metrics_folder.collect([one.folder for one in self.newest.replicas])
