"""What an API server does with its connections when its engine dies or is drained: vLLM's server, around no engine."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import prometheus_client
import pytest
import uvicorn

from raylaunch.engine.load_table import NOT_ACCEPTING
from raylaunch.engine.messages import SocketShare

pytestmark = pytest.mark.engine  # it imports vLLM


@dataclass
class Served:
    """A server that accepts, and what it is controlled by."""

    server: Any
    control: Any
    client: Any
    listening: socket.socket
    loads: list[int]
    is_asked: asyncio.Event = field(default_factory=asyncio.Event)
    """Whether a request of /slow is there."""
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)
    """Whether it is to be answered."""
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def app(self, scope: Any, _receive: Any, send: Any) -> None:
        if scope["path"] == "/slow":
            self.is_asked.set()
            await self.may_answer.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    async def ask(self, path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Send a request on a new connection."""
        reader, writer = await asyncio.open_connection(*self.listening.getsockname())
        self.writers.append(writer)  # without a reference it closes
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        return reader, writer


@contextlib.asynccontextmanager
async def serving(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Served]:
    from vllm.entrypoints.launchers.launcher import NoSignalServer

    from raylaunch.engine.control import EngineControl

    monkeypatch.setattr(uvicorn.Server, "startup", uvicorn.Server.startup)  # EngineControl replaces it
    monkeypatch.setattr(prometheus_client.REGISTRY, "register", lambda _collector: None)
    engine = SimpleNamespace(resources=SimpleNamespace(engine_manager=None), get_output_async=None)
    client = SimpleNamespace(output_processor=SimpleNamespace(propagate_error=lambda _error: None), engine_core=engine)
    accepting = asyncio.Event()
    control = EngineControl(client, SimpleNamespace(send=lambda _accepting: accepting.set()), SocketShare(0, 1))  # type: ignore[arg-type]
    listening = socket.create_server(("127.0.0.1", 0))
    loads = [NOT_ACCEPTING, NOT_ACCEPTING]
    served = Served(None, control, client, listening, loads)
    config = uvicorn.Config(served.app, interface="asgi3", lifespan="off", log_config=None)
    served.server = NoSignalServer(config, peer_loads=(loads, 0))
    running = asyncio.create_task(served.server.serve(sockets=[listening.dup()]))
    await accepting.wait()
    yield served
    served.server.should_exit = True
    await running
    listening.close()


def test_a_dead_engine_takes_no_request_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """An idle connection is closed, a busy one after its answer; a new one is left to who else accepts."""

    async def run() -> None:
        async with serving(monkeypatch) as served:
            idle, _ = await served.ask("/")
            assert (await idle.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
            busy, _ = await served.ask("/slow")
            await served.is_asked.wait()
            served.client.output_processor.propagate_error(RuntimeError("dead"))
            assert await idle.read() == b""

            await served.ask("/")
            other, _ = await asyncio.get_running_loop().sock_accept(served.listening)
            other.close()

            served.may_answer.set()
            assert b"connection: close\r\n" in await busy.read()
            served.server._publish_load()  # as vLLM does where a connection was on its way
            assert served.loads == [NOT_ACCEPTING, NOT_ACCEPTING]

    asyncio.run(run())


def test_a_drain_closes_each_connection_after_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are answered later than uvicorn's next tick too, which makes the default headers anew."""

    async def run() -> None:
        async with serving(monkeypatch) as served:
            kept, writer = await served.ask("/")
            await kept.readuntil(b"ok")
            draining = asyncio.create_task(served.control._drain(60.0))
            await asyncio.sleep(0)
            await served.server.on_tick(0)
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"connection: close\r\n" in await kept.read()
            draining.cancel()

    asyncio.run(run())
