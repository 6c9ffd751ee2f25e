"""Which layout of a launch is served: its own one, or while nodes are away the first of its fallbacks that fits.

Pure decisions: times are given in, in monotonic seconds.
"""

from collections.abc import Sequence
from dataclasses import replace

from raylaunch.base import console
from raylaunch.cluster.ray_session import GpuWait
from raylaunch.config.launch import LaunchConfig
from raylaunch.engine.rehearsal.plan import ResolvedLaunch

_RETURN_WAIT_S = 30.0
"""Longest wait for a node that was lost again while the launch's own layout was being started again."""
_LONGEST_STEADY_S = 3600.0


class Layouts:
    """The layouts of one launch: its own one, then its fallbacks."""

    def __init__(self, own: ResolvedLaunch) -> None:
        self.own = own
        self._all = (own, *(replace(one, fallback_of=own) for one in own.fallbacks))
        self._block = own.launch.fallback
        self._current = 0
        self._away_since: float | None = None
        self._back_since: float | None = None
        self._failed: set[int] = set()
        """Fallbacks that did not come up since the nodes went away."""
        self._failed_returns = 0
        self._obstacle = ""
        """Why the last return failed."""
        self._is_returning = False
        self._there = 0
        """Nodes of the launch's own layout that are there."""

    @property
    def number(self) -> int:
        """0: the launch's own layout; else the entry of fallback.layouts, from 1."""
        return self._current

    @property
    def current(self) -> ResolvedLaunch:
        """What is served, or started."""
        return self._all[self._current]

    def take(self, resolved: ResolvedLaunch) -> None:
        """One of its layouts is started from now on."""
        before, launches = self._current, [one.launch for one in self._all]
        self._current = next(index for index, launch in enumerate(launches) if launch is resolved.launch)
        self._is_returning = before > 0 == self._current
        self._back_since = None

    def note_ready(self) -> None:
        """The engine serves."""
        self._away_since = self._back_since = None
        self._failed.clear()
        self._is_returning = False
        if not self._current:
            self._failed_returns, self._obstacle = 0, ""

    def find_next(self, wait: GpuWait | None, now: float) -> ResolvedLaunch | None:
        """The layout to start instead of the one that waits for nodes; None: wait on.

        Args:
            wait: what is there; None where nothing is waited for.
        """
        if wait is None or len(self._all) == 1:
            return None
        gpus = [node.gpus for node in wait.found]
        self._there = _count_nodes(self.own.launch, gpus)
        if not wait.missing_nodes:
            if not self._current:
                self._away_since = None
            return None
        if self._away_since is None:
            self._away_since = now
        limit_s = min(self._block.after_s, _RETURN_WAIT_S) if self._is_returning else self._block.after_s
        if now - self._away_since < limit_s:
            return None
        for index, one in enumerate(self._all):
            needed = one.launch.cluster.nodes
            if index != self._current and index not in self._failed and _count_nodes(one.launch, gpus) >= needed:
                return one
        self._failed.clear()  # another round
        self._away_since = now
        return None

    def note_failed_start(self) -> ResolvedLaunch:
        """The current fallback did not come up; returns what to start now: it waits for nodes, or for the next one."""
        self._failed.add(self._current)
        return self.own

    def note_failed_return(self, why: str) -> None:
        """The launch's own layout was refused, or did not come up: it is tried again later."""
        self._failed_returns += 1
        self._obstacle, self._back_since = why, None

    def is_due_back(self, node_gpus: Sequence[int], running: int, now: float) -> bool:
        """Whether the launch's own layout is to be served again.

        Args:
            node_gpus: GPUs of each living node.
            running: requests that run.
        """
        if not self._current:
            return False
        self._there = _count_nodes(self.own.launch, node_gpus)
        is_low = self._block.return_ == "now" or running <= self._block.quiet_requests
        if self._block.return_ == "never" or self._there < self.own.launch.cluster.nodes or not is_low:
            self._back_since = None
            return False
        if self._back_since is None:
            self._back_since = now
        needed_s: float = self._block.steady_s * 2**self._failed_returns
        return now - self._back_since >= min(_LONGEST_STEADY_S, needed_s)

    def describe(self) -> str:
        """What is served instead of the launch's own layout, and what for; "" where that is served."""
        if not self._current:
            return ""
        launch, cluster = self.current.launch, self.own.launch.cluster
        length = f", max_model_len {launch.max_model_len}" if launch.max_model_len else ""
        there = min(self._there, cluster.nodes)
        text = (
            f"{there} of {cluster.nodes} nodes with {cluster.gpus_per_node} GPU(s) are there: "
            f"fallback layout {self._current} of {len(self._all) - 1} ({_describe_layout(launch)}{length})"
        )
        if self._there >= cluster.nodes:
            text += f"; {self._describe_return()}"
        return text + (f"; the last return failed: {self._obstacle}" if self._obstacle else "")

    def _describe_return(self) -> str:
        block = self._block
        if block.return_ == "never":
            return "`raylaunch restart LAUNCH.yaml` returns to the launch's own layout (fallback.return: never)"
        low = f" with at most {block.quiet_requests} request(s) at once" if block.return_ == "quiet" else ""
        return f"the launch's own layout returns after {block.steady_s:.0f} s{low}"

    def describe_plan(self) -> str:
        """What happens if nodes stay away, as the end of a sentence; "" without a fallback."""
        if len(self._all) == 1 or self._current:
            return ""
        return f"; after {self._block.after_s:.0f} s a fallback layout is served"


def _count_nodes(launch: LaunchConfig, gpus: Sequence[int]) -> int:
    """How many nodes with these GPUs can carry the launch."""
    return sum(there >= launch.cluster.gpus_per_node for there in gpus)


def _describe_layout(launch: LaunchConfig) -> str:
    cluster = launch.cluster
    return (
        f"{cluster.nodes} node(s) x {cluster.gpus_per_node} GPU(s), TP={launch.tensor_parallel_size} x "
        f"PP={launch.pipeline_parallel_size}"
    )


class ReturnRequest:
    """Asks for the launch's own layout, as `raylaunch restart` asks for another launch; reports to the console."""

    def __init__(self, layouts: Layouts) -> None:
        self._layouts = layouts

    def report(self, text: str) -> None:
        """Report progress."""
        console.say(f"back to the launch's own layout: {text}")

    def finish(self, text: str) -> None:
        """Report success."""
        self.report(text)

    def refuse(self, what: str, fix: str) -> None:
        """Report an error."""
        self._layouts.note_failed_return(what)
        console.say(f"not back to the launch's own layout: {what}" + (f" ({fix})" if fix else ""), style="yellow")
