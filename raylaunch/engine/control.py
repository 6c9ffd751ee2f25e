"""A hand on the running engine, inside the serving child: its pulse, its clients, its end.

With engine.py and server.py the only module that knows vLLM (0.25 to 0.33). The data path is untouched but for one
addition per engine step.
"""

import asyncio
import contextlib
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator
from typing import Any

import prometheus_client
import uvicorn
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from vllm.v1.engine.exceptions import EngineDeadError

from raylaunch.base import metric_families, processes
from raylaunch.base.ipc import OrderReader

_PULSE_S = 0.5
_GOODBYE_S = 2.0
"""For writing an error to every client."""


class EngineHand:
    """What the supervisor may know of, and do to, the engine that this process serves."""

    def __init__(self, client: Any, tell: Callable[..., None], orders: OrderReader) -> None:
        """Take hold of vLLM's AsyncLLM before its app is built."""
        self._client, self._tell, self._orders = client, tell, orders
        self._moves = 0
        self._kv_cache_use: float | None = None
        self._server: uvicorn.Server | None = None
        self._collector = _Collector()
        self._count_outputs()
        self._catch_server()
        prometheus_client.REGISTRY.register(self._collector)

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
        """Learn when uvicorn accepts; vLLM keeps its server to itself (0.25 to 0.33)."""
        startup = uvicorn.Server.startup

        async def startup_and_tell(server: uvicorn.Server, sockets: Any = None) -> None:
            await startup(server, sockets)
            self._server = server
            self._tell("accepting")

        uvicorn.Server.startup = startup_and_tell  # type: ignore[assignment,method-assign]

    async def follow(self) -> None:
        """Tell pulses and take orders until the supervisor goes."""
        loop = asyncio.get_running_loop()
        loop.add_reader(0, self._take_orders)
        # A supervisor that is gone is told by the end of stdin: clients then get their error. Its SIGTERM, which comes
        # at the same moment, would have vLLM cancel their requests (0.32: a bare "Internal Server Error").
        processes.outlive_parent()
        while True:
            running = self._client.output_processor.get_num_unfinished_requests()
            with contextlib.suppress(BrokenPipeError):
                self._tell("pulse", running=running, moves=self._moves, dead=bool(self._client.errored))
            await asyncio.sleep(_PULSE_S)

    def _take_orders(self) -> None:
        lines = self._orders.read_lines()
        if self._orders.closed:
            asyncio.get_running_loop().remove_reader(0)
            lines.append(json.dumps({"do": "fail", "why": "the service ended"}))
        for line in lines:
            order = json.loads(line)
            if order["do"] == "figures":
                self._collector.samples = order["samples"]
            elif order["do"] == "drain":
                self._stop_accepting()
            else:
                asyncio.create_task(self._fail(order["why"]))  # noqa: RUF006 (it ends this process)

    def _stop_accepting(self) -> None:
        """Let uvicorn close the door from inside: running requests finish, then it ends, and the engine with it."""
        if self._server is not None:
            for listening in self._server.servers:  # now, and not at uvicorn's next tick
                listening.close()
            self._server.should_exit = True

    async def _fail(self, why: str) -> None:
        """Give every waiting client an error, streams an error event; then end this process and EngineCore."""
        self._stop_accepting()
        error = EngineDeadError()
        error.args = (why,)
        self._client.engine_core.resources.engine_dead = True
        self._client.output_processor.propagate_error(error)
        deadline = asyncio.get_running_loop().time() + _GOODBYE_S
        while self._server is not None and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.05)
            if not self._server.server_state.tasks:
                break
        await asyncio.sleep(0.05)  # for the last bytes
        for child in multiprocessing.active_children():
            child.kill()
        os._exit(1)


class _Collector:
    """The supervisor's figures among the engine's own."""

    samples: list[tuple[str, dict[str, str], float]] = []  # noqa: RUF012 (replaced, never changed)

    def collect(self) -> Iterator[Metric]:
        """One family per figure."""
        families: dict[str, Metric] = {}
        for name, labels, value in self.samples:
            kind, words = metric_families.find_kind(name)
            if name not in families:
                family = CounterMetricFamily if kind == "counter" else GaugeMetricFamily
                families[name] = family(name, words, labels=list(labels))
            families[name].add_metric(list(labels.values()), value)  # type: ignore[attr-defined]
        yield from families.values()
