"""A process that does with sockets and messages what an API server does, around no engine: for tests of the supervisor.

Each completion is a stream of 20 events in a second, which name the process.
"""

import asyncio
import contextlib
import os
import socket
import time

from raylaunch.base.ipc import ParentLink
from raylaunch.engine.load_table import LoadTable
from raylaunch.engine.messages import (
    Accepting,
    ApiServers,
    Drain,
    EnginePulse,
    EngineReady,
    EngineStarting,
    FailClients,
    Imported,
    ServeEngine,
    StopAccepting,
)

EVENTS = 20


class Double:
    """The state of the process."""

    def __init__(self, order: ServeEngine, parent: ParentLink) -> None:
        self.order, self.parent = order, parent
        self.running = self.moves = 0
        self.why = ""
        self.is_over = False
        self.listening: list[socket.socket] = []
        self.tasks: set[asyncio.Task[None]] = set()

    def accept(self, listening: socket.socket) -> None:
        """By itself: asyncio's own server, when it is closed, loses a connection that it has just accepted (3.11)."""
        share = self.order.share
        if share.loads_fd is not None:
            loads = LoadTable.open(share.loads_fd).loads
            loads[share.first_slot] = self.running
            if self.running > min(loads):
                time.sleep(0.01)  # as vLLM does: the less loaded one takes it
        with contextlib.suppress(BlockingIOError):
            task = asyncio.get_running_loop().create_task(self.serve_connection(listening.accept()[0]))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def serve_connection(self, connection: socket.socket) -> None:
        self.running += 1
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            connection.setblocking(False)
            await self.answer(*await asyncio.open_connection(sock=connection))
        self.running -= 1

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next((int(line.split(":")[1]) for line in head.lower().splitlines() if "content-length" in line), 0)
        body = await reader.readexactly(length)
        is_stream = b'"stream": true' in body
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/plain\r\n\r\n")
        if not is_stream:
            writer.write(b'{"choices": [{"text": "x", "index": 0, "finish_reason": "length"}]}')
        for _ in range(EVENTS if is_stream else 0):
            if self.why:
                writer.write(b'data: {"error": {"message": "' + self.why.encode() + b'"}}\n\n')
                break
            self.moves += 1
            writer.write(b'data: {"pid": %d}\n\n' % os.getpid())
            await writer.drain()
            await asyncio.sleep(1 / EVENTS)
        if is_stream:
            writer.write(b"data: [DONE]\n\n")
        await writer.drain()
        writer.close()

    def obey(self) -> None:
        for message in self.parent.receive():
            if isinstance(message, Drain | StopAccepting | FailClients):
                for listening in self.listening:
                    asyncio.get_running_loop().remove_reader(listening)
            if isinstance(message, FailClients):
                self.why = message.why
            if isinstance(message, Drain | FailClients):
                self.is_over = True
        if self.parent.is_closed:
            os._exit(1)

    async def serve(self) -> None:
        share = self.order.share
        asyncio.get_running_loop().add_reader(0, self.obey)
        self.parent.send(EngineStarting())
        self.parent.send(EngineReady(kv_cache_tokens=1024, max_model_len=256))
        found = [descriptor for descriptor in (share.socket_fd, share.private_fd) if descriptor is not None]
        self.listening = [socket.socket(fileno=descriptor) for descriptor in found]
        for listening in self.listening:
            asyncio.get_running_loop().add_reader(listening, self.accept, listening)
        if share.loads_fd is not None:
            LoadTable.open(share.loads_fd).loads[share.first_slot] = 0
        self.parent.send(ApiServers((os.getpid(),)))
        self.parent.send(Accepting())
        while not (self.is_over and self.running == 0):
            self.parent.send(EnginePulse(self.running, self.moves))
            await asyncio.sleep(0.1)


if __name__ == "__main__":
    link = ParentLink()
    link.send(Imported())
    asyncio.run(Double(link.wait_for(ServeEngine), link).serve())
