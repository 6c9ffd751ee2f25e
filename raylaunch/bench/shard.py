"""One shard of a load: a loop over epoll that drives its streams, notes when bytes came, and checks itself.

A loop of our own because the time a reading waits for the loop is part of what is measured: one turn is one check of
the sockets and the work for those that are ready, so the length of a turn bounds the error of every time noted in it.
"""

import gc
import random
import select
import ssl
from collections import deque
from collections.abc import Sequence
from time import monotonic, sleep

from raylaunch.base import tls
from raylaunch.bench.connection import RequestRow, ServerAddress, Stream, StreamState
from raylaunch.bench.http_response import make_request
from raylaunch.bench.self_check import SelfCheck, make_room
from raylaunch.bench.shard_plan import ShardControl, ShardPlan, ShardProgress, ShardResult

TICK_S = 0.05
_CONNECTING_AT_ONCE = 128
_BEGIN_AT_ONCE = 64
_PREPARE_LIMIT_S = 30.0
_PAUSE_AFTER_FAILURE_S = 0.1


class Shard:
    """See the module."""

    def __init__(self, plan: ShardPlan, control: ShardControl) -> None:
        self._plan, self._control = plan, control
        self._poll = select.epoll()
        self._by_fd: dict[int, Stream] = {}
        self._notes = SelfCheck()
        self._address = plan.addresses[0]
        self._context = _make_context(self._address)
        self._streams: list[Stream] = []
        self._idle: list[Stream] = []
        self._resting: deque[tuple[float, Stream]] = deque()
        self._waiting: deque[RequestRow] = deque()  # open loop: due, and no file descriptor for it
        self._rows: list[RequestRow] = []
        self._cut: list[RequestRow] = []
        self._next = plan.shard
        self._running = 0
        self._failed = self._events = 0
        self._failed_in_a_row = 0
        self._ended = ""
        self._random = random.Random(f"{plan.seed}/{plan.shard}")

    def run(self) -> ShardResult:
        """Connect, wait for the start, offer the load, and return what was seen."""
        gc.disable()  # a collection stops the loop for tens of milliseconds, and nothing here makes cycles
        try:
            fit = make_room(self._plan.streams if self._plan.concurrency else 1 << 16)
            self._fit = fit
            self._choose_address()
            if self._plan.concurrency:
                self._prepare(min(self._plan.streams, fit))
            start = self._control.wait_for_start()
            if start is None:
                self._ended, start = "stopped", monotonic()
            sleep(max(0.0, start - monotonic()))
            return self._drive(start)
        finally:
            for stream in self._streams:
                stream.close()
            self._poll.close()
            gc.enable()

    def _choose_address(self) -> None:
        """Keep the first address that connects; where none does, the requests fail."""
        for address in self._plan.addresses:
            self._address = address
            self._context = _make_context(address)
            stream = self._make_stream()
            self._settle([stream], 5.0)
            if stream.state is StreamState.IDLE:
                stream.close()
                return
            stream.close()

    def _make_stream(self) -> Stream:
        return Stream(self._address, self._context, self._poll, self._by_fd, self._notes.connects_s.append)

    def _settle(self, streams: Sequence[Stream], limit_s: float) -> None:
        """Open connections, a number at once: more would overflow a server's backlog and cost a second each."""
        left = list(reversed(streams))
        until = monotonic() + limit_s
        under_way: list[Stream] = []
        while (left or under_way) and monotonic() < until and not self._control.is_stopped():
            while left and len(under_way) < _CONNECTING_AT_ONCE:
                stream = left.pop()
                if stream.open() is None:
                    under_way.append(stream)
            for fd, mask in self._poll.poll(TICK_S):
                if stream_of_fd := self._by_fd.get(fd):
                    stream_of_fd.on_ready(mask)
            under_way = [one for one in under_way if one.state in (StreamState.CONNECTING, StreamState.SHAKING)]

    def _prepare(self, count: int) -> None:
        self._notes.connects_s.clear()  # the probe's
        self._streams = [self._make_stream() for _ in range(count)]
        self._settle(self._streams, _PREPARE_LIMIT_S)
        self._idle = list(self._streams)
        self._notes.refused_for_files = max(0, self._plan.streams - count)

    def _drive(self, start: float) -> ShardResult:
        now = monotonic()
        self._notes.start(now)
        self._start_s = start
        self._next_due = start if self._plan.rate_per_s is None else start + self._draw_gap()
        last_report = last_check = woke = now
        while not self._ended:
            self._begin_due(now)
            if not self._running and not self._resting and not self._waiting and self._is_all_sent(now):
                self._ended = "whole"
                break
            asleep = monotonic()
            timeout = self._find_timeout(asleep)
            self._notes.note_turn(asleep - woke)
            ready = self._poll.poll(timeout)
            woke = monotonic()
            if not ready:
                self._notes.note_turn(woke - asleep - timeout - 0.001)  # epoll rounds up to a millisecond
            self._notes.reads += len(ready)
            by_fd = self._by_fd
            for fd, mask in ready:
                stream = by_fd.get(fd)
                if stream is not None and (ended := stream.on_ready(mask)) is not None:
                    self._finish(stream, ended)
            now = monotonic()
            if now - last_check >= TICK_S:
                last_check = now
                self._check(now)
                if now - last_report >= 0.5:
                    last_report = now
                    self._report()
        now = monotonic()
        self._notes.end(now)
        self._report()
        for stream in self._streams:
            if stream.row is not None:
                stream.take_arrivals()
                stream.row.end_s = now
                self._cut.append(stream.row)
        last = max((row.end_s for row in self._rows), default=now) if self._ended == "whole" else now
        return ShardResult(self._rows, self._notes, start, last, self._ended, len(self._cut), self._cut)

    def _report(self) -> None:
        self._control.report(ShardProgress(len(self._rows), self._failed, self._running, self._events))

    def _draw_gap(self) -> float:
        assert self._plan.rate_per_s is not None
        return self._random.expovariate(self._plan.rate_per_s / self._plan.shards)

    def _is_all_sent(self, now: float) -> bool:
        plan = self._plan
        if plan.requests is not None and self._next >= plan.requests:
            return True
        moment = self._next_due if plan.rate_per_s is not None else now
        return plan.duration_s is not None and moment >= self._start_s + plan.duration_s

    def _find_timeout(self, now: float) -> float:
        if self._is_all_sent(now):
            return TICK_S
        if self._plan.rate_per_s is None:
            return 0.0 if self._idle else TICK_S
        return min(TICK_S, max(0.0, self._next_due - now))

    def _begin_due(self, now: float) -> None:
        if self._plan.rate_per_s is None:
            while self._resting and self._resting[0][0] <= now:
                self._idle.append(self._resting.popleft()[1])
            for _ in range(min(len(self._idle), _BEGIN_AT_ONCE)):  # between them the answers are read
                if self._is_all_sent(now):
                    break
                self._begin(self._idle.pop(), RequestRow(self._take_number(), monotonic()))
            return
        while self._next_due <= now and not self._is_all_sent(now):
            self._waiting.append(RequestRow(self._take_number(), self._next_due))
            self._next_due += self._draw_gap()
        while self._waiting:
            if not self._idle:
                if len(self._streams) >= self._fit:
                    self._notes.refused_for_files += 1
                    return
                self._streams.append(self._make_stream())
                self._idle.append(self._streams[-1])
            self._begin(self._idle.pop(), self._waiting.popleft())

    def _take_number(self) -> int:
        number = self._next
        self._next += self._plan.shards
        return number

    def _begin(self, stream: Stream, row: RequestRow) -> None:
        row.shard = self._plan.shard
        self._running += 1
        body = self._plan.bodies[(self._plan.first_body + row.number) % len(self._plan.bodies)]
        if failed := stream.send(row, make_request(self._plan.head, body)):
            self._finish(stream, ("connect" if not row.sent_s else "reset", failed))

    def _finish(self, stream: Stream, ended: tuple[str, str]) -> None:
        """Note how a request ended and let its stream go on."""
        row = stream.row
        if row is None:
            return
        kind, detail = ended
        now = monotonic()
        if kind:
            stream.take_arrivals()
            row.error, row.detail, row.end_s = kind, detail, row.end_s or now
            self._failed += 1
            self._failed_in_a_row += 1
            if kind in ("reset", "timeout", "protocol"):
                stream.close()
        else:
            self._failed_in_a_row = 0
        stream.row = None
        self._rows.append(row)
        self._events += len(row.arrivals)
        self._running -= 1
        if self._failed_in_a_row >= max(20, 2 * len(self._streams)):
            self._ended = "gone"
        elif kind:
            self._resting.append((now + _PAUSE_AFTER_FAILURE_S, stream))
        elif self._plan.rate_per_s is None and not self._is_all_sent(now):
            self._begin(stream, RequestRow(self._take_number(), now))
        else:
            self._idle.append(stream)

    def _check(self, now: float) -> None:
        """Check for a stop, silence and dead servers, twenty times a second."""
        if self._control.is_stopped():
            self._ended = "stopped"
            return
        if self._plan.rate_per_s is not None:
            while self._resting and self._resting[0][0] <= now:
                self._idle.append(self._resting.popleft()[1])
        busy = [stream for stream in self._streams if stream.row is not None]
        silent = [stream for stream in busy if now - stream.last_s > self._plan.timeout_s]
        for stream in silent:
            self._finish(stream, ("timeout", f"silent for {self._plan.timeout_s:g} s"))
        if silent and len(silent) == len(busy) and not self._is_all_sent(now):
            self._ended = self._ended or "stalled"  # what hangs after all were sent is a timeout, and no more


def _make_context(address: ServerAddress) -> ssl.SSLContext | None:
    if address.server_name is None:
        return None
    return tls.make_client_context(address.tls)
