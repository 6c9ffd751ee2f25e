"""The start of each round of a pull: what every node has, lacks and may be written, with the locks taken."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from raylaunch.base.errors import WeightsError
from raylaunch.weights import expected_files, inventory
from raylaunch.weights.agents import Agents, naming
from raylaunch.weights.expected_files import ExpectedFiles, Proven, PullRequest
from raylaunch.weights.own_files import OwnFile, OwnFilesChoice, OwnFilesError
from raylaunch.weights.store import StoreState
from raylaunch.weights.transfer_plan import NodeFiles
from raylaunch.weights.working_folder import LockOutcome

_LOCK_POLL_S = 0.5
_CHANGES_AT_MOST = 6


@dataclass(frozen=True)
class SurveyResult:
    """What a round has to do."""

    expected: ExpectedFiles
    node_files: dict[str, NodeFiles]
    """What each node has that writes to a storage of its own, or is complete."""
    writers: Mapping[str, str]
    """Node that gets a manifest -> the node that writes to its storage; itself if it does not share it."""


@dataclass
class Survey:
    """Surveys the nodes once per round; keeps what a pull has learned about them."""

    request: PullRequest
    agents: Agents
    report: Callable[[str], None]
    proven: Proven = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    """Node -> why it can no longer be written to."""
    distrusted: set[tuple[str, str]] = field(default_factory=set)
    """(node, file) that passed the fast check and is damaged."""
    shared: dict[str, str] = field(default_factory=dict)
    """Node -> the node whose storage it shares."""
    replaced: dict[str, str] = field(default_factory=dict)
    """Node -> folder that files of the user were moved to."""
    _changes: int = 0
    """How often files changed between two looks."""

    async def run(self, nodes: Sequence[str]) -> SurveyResult | None:
        """Survey the nodes; None if the folders changed meanwhile.

        Raises:
            OwnFilesError: files of the user are where the model's belong, and the request does not replace them.
            WeightsError: the model is not available, or a node cannot be written or has no room.
        """
        request = self.request
        states = await inventory.inspect_all(self.agents, nodes)
        expected = await expected_files.find_expected(self.agents, request, states, self.proven, self.report)
        node_files = await inventory.find_node_files(self.agents, request, expected, states, self.proven, self.report)
        for node, name in self.distrusted:
            if node in node_files:
                node_files[node] = node_files[node].without({name})
        own = await inventory.find_own_files(self.agents, expected, states, node_files)
        if own and request.own_files is OwnFilesChoice.ADOPT:
            raise OwnFilesError.on_adoption(request.repo, request.folder, own, expected.source)
        if own and request.own_files is not OwnFilesChoice.REPLACE:
            raise OwnFilesError.as_question(request.repo, request.folder, own, request.command)
        writable = [node for node in nodes if node not in self.refused]
        lacking = [node for node in writable if self._is_lacking(expected, node_files[node], states[node])]
        writers = await inventory.find_storages(self.agents, expected, lacking)
        for node, writer in writers.items():
            if node != writer and self.shared.get(node) != writer:
                self.report(f"{node}: shares its storage with {writer}")
                self.shared[node] = writer
        written = [node for node in lacking if writers[node] == node]
        await self._lock(written)
        if changed := await inventory.list_changed(self.agents, states, written):
            await self._wait_for_rest(changed)
            return None
        if own:
            await self._replace({node: files for node, files in own.items() if node in written})
            return None
        mine = {node: node_files[node] for node in writable if writers.get(node, node) == node}
        inventory.check_room(expected, states, mine, request.folder)
        unmarked = [node for node in writable if node not in lacking and not states[node].manifest]
        for node in unmarked:
            self.report(f"{node}: {request.folder} is complete and read-only: no manifest is written there")
        return SurveyResult(
            expected, mine, {node: writers.get(node, node) for node in writable if node not in unmarked}
        )

    def _is_lacking(self, expected: ExpectedFiles, present: NodeFiles, seen: StoreState) -> bool:
        """Whether a node lacks files in its folder, or a manifest that can be written."""
        in_place = present.complete & seen.files.keys()
        return bool(expected.sizes.keys() - in_place) or (not seen.manifest and seen.is_writable)

    async def _replace(self, own: Mapping[str, Sequence[OwnFile]]) -> None:
        """Move the user's files aside where they differ."""
        for node, files in own.items():
            with naming(node):
                self.replaced[node] = str(await self.agents.call(node, "move_aside", [file.name for file in files]))
            self.report(f"{node}: moved {', '.join(file.name for file in files)} to {self.replaced[node]}")

    async def _wait_for_rest(self, changed: Sequence[str]) -> None:
        """Files changed between two looks.

        Raises:
            WeightsError: again and again, though this pull has the locks.
        """
        self._changes += 1
        if self._changes >= _CHANGES_AT_MOST:
            raise WeightsError(
                f"{', '.join(changed)}: files in {self.request.folder} keep changing: another program writes there",
                fix="run it again when that program has ended",
            )
        if self._changes > 1:
            self.report(f"{', '.join(changed)}: files in {self.request.folder} change: looking again")
            await asyncio.sleep(_LOCK_POLL_S)

    async def _lock(self, nodes: Sequence[str]) -> None:
        """Take the locks, always in the same order; wait for other pulls that hold them."""
        waited = False
        for node in nodes:
            while (outcome := await self._try_lock(node)) is not LockOutcome.HELD:
                if outcome is LockOutcome.UNKNOWN:
                    self.report(f"{node}: {self.request.folder} is on a file system without locks: run one pull only")
                    break
                if not waited:
                    self.report(f"{node}: another process fetches into {self.request.folder}: waiting for it")
                waited = True
                await asyncio.sleep(_LOCK_POLL_S)

    async def _try_lock(self, node: str) -> LockOutcome:
        with naming(node):
            outcome: LockOutcome = await self.agents.call(node, "try_lock")
        return outcome
