"""Progress of a pull, one line per node (bytes, rate, source, time left), and its result."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from raylaunch.base import console
from raylaunch.base.console import ProgressLine
from raylaunch.base.errors import WeightsError
from raylaunch.base.text import describe_seconds
from raylaunch.weights.agents import Agents
from raylaunch.weights.hub_types import Listing
from raylaunch.weights.node_agent import Counts
from raylaunch.weights.transfer_plan import NodeFiles, PlannedTransfer

_POLL_S = 1.0
_PLAIN_EVERY_POLLS = 10
"""Without a terminal, progress lines are printed once per so many polls."""
_WINDOW_S = 10.0
"""Rates are means over this time."""


class Reporter(Protocol):
    """Receives the messages and progress of a pull."""

    def report(self, line: str) -> None:
        """Print one line."""

    def show(self, lines: Sequence[ProgressLine]) -> None:
        """Show the progress lines of all nodes; called every second."""


@dataclass
class PullResult:
    """The result of a pull."""

    repo: str
    folder: str
    source: str
    commit: str | None
    nodes: tuple[str, ...]
    total_bytes: int
    """Of the model, on each node."""
    files: int
    left_out_files: int
    left_out_bytes: int
    from_hub_bytes: int = 0
    from_peers_bytes: int = 0
    seconds: float = 0.0
    already: bool = False
    """Every node was complete before."""
    shared: dict[str, str] = field(default_factory=dict)
    """Node -> the node whose storage it shares."""
    replaced: dict[str, str] = field(default_factory=dict)
    """Node -> folder that files of the user were moved to (`--replace`)."""


class PullProgress:
    """Polls the agents for their progress."""

    def __init__(self, agents: Agents, reporter: Reporter) -> None:
        self._agents, self._reporter = agents, reporter
        self._sizes: Mapping[str, int] = {}
        self._complete: dict[str, set[str]] = {}
        self._counts: dict[str, Counts] = {}
        """By agent id, so that the bytes of a dead agent still count."""
        self._history: dict[str, list[tuple[float, int, int, int]]] = {}

    def begin(self, sizes: Mapping[str, int], node_files: Mapping[str, NodeFiles]) -> None:
        """Start a round."""
        self._sizes = sizes
        self._complete = {node: set(present.complete) for node, present in node_files.items()}

    def finish(self, node: str, name: str) -> None:
        """Record that a node has a complete file."""
        self._complete[node].add(name)

    def measure_arrived(self) -> int:
        """Bytes that all nodes received in this pull."""
        return sum(self.measure_sources())

    def measure_sources(self) -> tuple[int, int]:
        """Bytes received from the hub and from peers, over all nodes."""
        counts = self._counts.values()
        return sum(count.from_hub for count in counts), sum(count.from_peers for count in counts)

    @contextlib.asynccontextmanager
    async def shown(self) -> AsyncIterator[None]:
        """Show progress while the block runs."""
        showing = asyncio.ensure_future(self._keep_showing())
        try:
            yield
        finally:
            showing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await showing
            await self._poll()

    async def _keep_showing(self) -> None:
        while True:
            await asyncio.sleep(_POLL_S)
            if lines := await self._poll():
                self._reporter.show(lines)

    async def _poll(self) -> list[ProgressLine]:
        lines = []
        for node in self._complete:
            counts = []
            for lane in range(self._agents.lanes):
                with contextlib.suppress(WeightsError):  # lost: its transfer reports the error
                    counts.append(await self._agents.call(node, "count", lane=lane))
            self._counts.update({count.agent: count for count in counts})
            lines.append(self._describe(node, counts))
        return lines

    def _describe(self, node: str, counts: Sequence[Counts]) -> ProgressLine:
        complete, total = self._complete[node], sum(self._sizes.values())
        held = sum(size for count in counts for name, size in count.held.items() if name not in complete)
        have = sum(self._sizes[name] for name in complete) + held
        now = time.monotonic()
        history = self._history.setdefault(node, [])
        history.append((now, have, sum(c.from_hub for c in counts), sum(c.from_peers for c in counts)))
        while history[-1][0] - history[0][0] > _WINDOW_S:
            history.pop(0)
        rate, left = _describe_rate(history, total - have)
        return ProgressLine(node, f"{have / 1e9:.2f} of {total / 1e9:.2f} GB{rate}", left)


def _describe_rate(history: Sequence[tuple[float, int, int, int]], left: int) -> tuple[str, str]:
    """The rate and its sources, and the time left; both empty where nothing arrives."""
    (began, had, hub_then, peers_then), (now, have, hub_now, peers_now) = history[0], history[-1]
    if now <= began or have <= had:
        return "", ""
    rate = (have - had) / (now - began)
    sources = [name for name, grew in (("hub", hub_now > hub_then), ("peer", peers_now > peers_then)) if grew]
    came = f" from {' and '.join(sources)}" if sources else ""
    return f", {rate / 1e6:.0f} MB/s{came}", f"{describe_seconds(left / rate)} left"


def announce(reporter: Reporter, listing: Listing, transfers: Sequence[PlannedTransfer]) -> None:
    """Report the planned files by source, and the files that are left out."""
    for from_hub, origin in ((True, listing.endpoint), (False, "other nodes")):
        if chosen := [transfer for transfer in transfers if transfer.from_hub == from_hub]:
            size = sum(transfer.size for transfer in chosen) / 1e9
            at = f" at {listing.commit[:12]}" if listing.commit else ""
            reporter.report(f"fetching {listing.repo}{at}: {len(chosen)} files, {size:.1f} GB, from {origin}")
    if listing.left_out:
        size = sum(listing.left_out.values()) / 1e9
        reporter.report(f"left out: {len(listing.left_out)} files that vLLM does not load, {size:.1f} GB")


@dataclass
class ConsoleReporter:
    """Prints live lines on a terminal, else plain lines every ten seconds."""

    lines: Callable[[Sequence[ProgressLine]], None]
    """From console.live_lines."""
    _polls: int = 0

    def report(self, line: str) -> None:
        """Print one line."""
        console.say(line)

    def show(self, lines: Sequence[ProgressLine]) -> None:
        """Show the progress lines of all nodes."""
        self._polls += 1
        if console.is_terminal() or self._polls % _PLAIN_EVERY_POLLS == 1:
            self.lines(lines)


def describe(result: PullResult) -> str:
    """The end of a pull: where the files are; in a second line their bytes, time and sources."""
    nodes = "this machine" if len(result.nodes) == 1 else f"{len(result.nodes)} nodes"
    size = f"{result.files} files, {result.total_bytes / 1e9:.2f} GB"
    what = f"{result.repo} is complete in {result.folder} on {nodes}"
    if result.already:
        return f"{what}\n    {size}; nothing to transfer"
    left_out = f"; left out {result.left_out_bytes / 1e9:.2f} GB" if result.left_out_bytes else ""
    return (
        f"{what}\n    {size} in {describe_seconds(result.seconds)}: {result.from_hub_bytes / 1e9:.2f} from the hub, "
        f"{result.from_peers_bytes / 1e9:.2f} from node to node{left_out}"
    )
