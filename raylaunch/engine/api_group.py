"""Several API server processes around one engine, all on the supervisor's listening socket.

This process starts EngineCore and forks the API servers: each is a client of EngineCore of its own, with vLLM's code
on both sides. To the supervisor it looks like the one API server: it passes messages on and adds the pulses up. It
serves no client itself, so an API server that dies costs its own clients only, and is forked again.
"""

import contextlib
import os
import select
import signal
import time
from argparse import Namespace
from collections.abc import Sequence
from typing import Any, NoReturn

import uvloop
from prometheus_client import multiprocess

from raylaunch.base import processes
from raylaunch.base.fork_link import ForkLink
from raylaunch.base.ipc import ParentLink
from raylaunch.base.processes import MARK_VARIABLE
from raylaunch.base.service_metrics import ServiceMetrics
from raylaunch.engine import engine_link, metrics_folder
from raylaunch.engine.control import GOODBYE_S, PULSE_S
from raylaunch.engine.engine_link import EngineLink
from raylaunch.engine.load_table import LoadTable
from raylaunch.engine.messages import (
    Accepting,
    ApiServers,
    Drain,
    EngineIntroduction,
    EnginePulse,
    EngineReady,
    EngineStarting,
    FailClients,
    ServeEngine,
    StopAccepting,
)

_MUTE_S = 3.0
"""Without a pulse for so long, an API server's event loop stands still: its numbers count no more."""
_RETRY_S = (0.0, 1.0, 2.0, 5.0, 15.0)
"""Before a process is forked again that replaced one: its start may be what kills it."""
_CALM_S = 60.0
_STOP_S = 3.0


class ApiGroup:
    """The API servers of one engine, and EngineCore."""

    def __init__(self, vllm_server: Namespace, order: ServeEngine, parent: ParentLink, engine_args: Any, args: Any):
        self._vllm, self._order, self._parent = vllm_server, order, parent
        self._engine_args, self._args = engine_args, args
        assert order.share.loads_fd is not None
        self._loads = LoadTable.open(order.share.loads_fd)
        self._servers: list[ForkLink] = []
        """By index; a dead one stays in its place until it is replaced."""
        self._born = [0.0] * order.share.api_servers
        self._tries = [0] * order.share.api_servers
        self._introduction: bytes | None = None
        self._is_ending = self._is_asked_to_end = self._is_ready = self._has_accepted = False
        self._reported: tuple[int, ...] = ()
        self._is_closed = False
        """Whether the servers have the message that the engine is dead."""
        self._note = ""
        self._moves = 0
        """Of the servers that were replaced."""

    def run(self) -> None:
        """Start the engine and its API servers, and keep them until a message, a signal or the engine's death."""
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.utils import bind_engine_zmq_listeners, launch_core_engines
        from vllm.v1.executor import Executor

        count = self._order.share.api_servers
        self._engine_args._api_process_count, self._engine_args._api_process_rank = count, -1
        config = self._engine_args.create_engine_config(usage_context=UsageContext.OPENAI_API_SERVER)
        self._listeners = bind_engine_zmq_listeners(config, count)
        self._admission = _make_admission_counters(self._args, count)
        engine_link.let_clients_be_released()
        self._parent.send(EngineStarting())
        executor, has_stats = Executor.get_class(config), not self._engine_args.disable_log_stats
        try:
            with launch_core_engines(config, executor, has_stats, self._listeners.addresses) as launch:
                self._engine = launch.engine_manager
                self._tensor_queue = launch.tensor_queue
                for index in range(count):
                    self._servers.append(self._fork(index))
                launch.watched_frontend_processes = [server.process for server in self._servers]
        except BaseException:
            for server in self._servers:  # multiprocessing would wait for them
                server.kill()
            raise
        signal.signal(signal.SIGTERM, self._on_sigterm)
        processes.outlive_parent()  # as EngineControl.follow does
        self._follow()

    def _fork(self, index: int) -> ForkLink:
        link = EngineLink(
            count=self._order.share.api_servers,
            index=index,
            inputs=self._listeners.inputs[index],
            outputs=self._listeners.outputs[index],
            tensor_queue=self._tensor_queue,
            admission=self._admission,
            introduction=self._introduction,
        )
        self._born[index] = time.monotonic()

        def run(parent: ParentLink) -> None:
            from vllm.utils.system_utils import decorate_logs, set_process_title

            from raylaunch.engine.api_server import die_during_start, serve

            self._parent.close()
            signal.signal(signal.SIGTERM, die_during_start)
            set_process_title("APIServer", str(index))
            decorate_logs(f"ApiServer_{index}")
            self._engine_args._api_process_rank = index
            uvloop.run(serve(self._vllm, self._order, parent, self._engine_args, self._args, link))

        return ForkLink.start(run, name=f"ApiServer_{index}", others=self._servers)

    def _on_sigterm(self, _number: int, _frame: object) -> None:
        self._is_asked_to_end = True

    def _follow(self) -> None:
        """Pass messages on and replace what died, until this process is to end."""
        pulse_at = 0.0
        while True:
            self._wait(PULSE_S / 2)
            self._obey()
            for server in self._servers:
                if server.reader.descriptor >= 0:
                    self._take(server)
            self._keep_servers()
            if self._is_engine_dead() and not self._is_closed:
                self._is_closed = True
                self._send_all(StopAccepting())
            if self._is_asked_to_end:
                self._end(exit_status=0)
            if self._is_ending and not any(server.is_alive() for server in self._servers):
                self._end(exit_status=0)
            if time.monotonic() >= pulse_at:
                pulse_at = time.monotonic() + PULSE_S
                self._report()

    def _wait(self, timeout_s: float) -> None:
        poll = select.poll()
        servers = [server.fileno() for server in self._servers if not server.is_closed]
        cores = [] if self._is_closed else [process.sentinel for process in self._engine.processes]
        for descriptor in (0, *servers, *cores):
            poll.register(descriptor, select.POLLIN)
        poll.poll(timeout_s * 1000)

    def _obey(self) -> None:
        messages = self._parent.receive()
        if self._parent.is_closed:
            messages.append(FailClients("the service ended"))
        for message in messages:
            if isinstance(message, ServiceMetrics | Drain | StopAccepting | FailClients):
                self._send_all(message)
            if isinstance(message, Drain):
                self._is_ending = True
            elif isinstance(message, FailClients):
                until = time.monotonic() + GOODBYE_S + 0.3
                while any(server.is_alive() for server in self._servers) and time.monotonic() < until:
                    time.sleep(0.02)
                self._kill_engine()

    def _send_all(self, message: object) -> None:
        for server in self._servers:
            server.send(message)

    def _take(self, server: ForkLink) -> None:
        for message in server.receive():
            if isinstance(message, EngineIntroduction):
                self._introduction = message.payload
            elif isinstance(message, EngineReady) and not self._is_ready:
                self._is_ready = True
                self._parent.send(message)
        if not self._has_accepted and all(one.last(Accepting) for one in self._servers):
            self._has_accepted = True
            self._parent.send(Accepting())

    def _keep_servers(self) -> None:
        """Fork those that died again; end one whose event loop stands still for as long as a wedge may last."""
        for index, server in enumerate(self._servers):
            if server.is_alive():
                if server.last(EnginePulse) and server.silent_s() > self._order.launch.keep.progress_limit_s:
                    server.kill()  # its event loop stands still
                continue
            self._bury(index, server)
            if self._is_ending or self._is_engine_dead():
                continue
            if not self._has_accepted:  # a start that fails
                self._end(exit_status=1)
            now = time.monotonic()
            calm = now - self._born[index] > _CALM_S
            self._tries[index] = 0 if calm else self._tries[index]
            if now - self._born[index] >= _RETRY_S[min(self._tries[index], len(_RETRY_S) - 1)]:
                self._tries[index] += 1
                self._servers[index] = self._fork(index)

    def _bury(self, index: int, server: ForkLink) -> None:
        """Take a dead server out of the accounts, once."""
        if server.reader.descriptor < 0:
            return
        server.receive()
        self._moves += (server.last(EnginePulse) or EnginePulse()).moves
        server.close()
        server.process.join()
        if self._has_accepted and not self._is_ending:
            others = "the others serve on" if any(one.is_alive() for one in self._servers) else "none is left"
            self._note = f"API server {index} (pid {server.pid}) died; its clients' connections are closed, "
            self._note += f"{others}, and it is started again"
        self._loads.clear(self._order.share.first_slot + index, 1)
        if self._admission is not None:
            self._admission[index * (len(self._admission) // self._order.share.api_servers)] = 0
        with contextlib.suppress(OSError):
            multiprocess.mark_process_dead(server.pid)  # type: ignore[no-untyped-call]

    def _is_engine_dead(self) -> bool:
        return not all(process.is_alive() for process in self._engine.processes)

    def _report(self) -> None:
        alive = [server for server in self._servers if server.is_alive()]
        pulses = [pulse for server in alive if (pulse := server.last(EnginePulse)) and server.silent_s() < _MUTE_S]
        # vLLM (0.32) ends a server's own client at SIGTERM, which then takes the engine for dead: all have to say so.
        is_dead = self._is_engine_dead() or bool(pulses and all(pulse.is_dead for pulse in pulses))
        running = sum(pulse.running for pulse in pulses)
        moves = self._moves + sum((server.last(EnginePulse) or EnginePulse()).moves for server in alive)
        pids = tuple(server.pid for server in alive if server.last(Accepting))
        with contextlib.suppress(BrokenPipeError):
            if self._has_accepted and pids != self._reported:
                self._reported = pids
                self._parent.send(ApiServers(pids, self._note))
                self._note = ""
            if self._is_ready:
                exits = [process.exitcode for process in self._engine.processes if process.exitcode]
                self._parent.send(EnginePulse(running, moves, is_dead, core_exit=exits[0] if exits else None))

    def _end(self, *, exit_status: int) -> NoReturn:
        """End the API servers, then the engine, then this process."""
        for server in self._servers:
            server.request_end()
        _wait_ended(self._servers, _STOP_S)
        for server in self._servers:
            server.kill()
        self._engine.shutdown(timeout=0)
        self._leave(exit_status)

    def _kill_engine(self) -> NoReturn:
        for process in (*(server.process for server in self._servers), *self._engine.processes):
            if process.is_alive():
                process.kill()
        self._leave(1)

    def _leave(self, exit_status: int) -> NoReturn:
        self._listeners.cleanup()
        metrics_folder.remove(os.environ[MARK_VARIABLE])
        os._exit(exit_status)


def _wait_ended(servers: Sequence[ForkLink], timeout_s: float) -> None:
    until = time.monotonic() + timeout_s
    while any(server.is_alive() for server in servers) and time.monotonic() < until:
        time.sleep(0.02)


def _make_admission_counters(args: Any, count: int) -> Any:
    """The shared counters behind vLLM's max_num_queued_reqs; None where that is not set."""
    if getattr(args, "max_num_queued_reqs", None) is None:
        return None
    import multiprocessing

    from vllm.v1.engine.admission_control import SharedAdmissionStats

    return multiprocessing.get_context("fork").RawArray("q", SharedAdmissionStats.num_counters(count))
