"""Pull a model to every node, also when nodes leave or join meanwhile.

Each round inspects all nodes again: a killed pull, a node that joined and a node that was lost are one case.
"""

import asyncio
import time
from collections import Counter, deque
from typing import Any

from raylaunch.base.errors import WeightsError
from raylaunch.weights import commit, transfer_plan
from raylaunch.weights.agents import Agents, NodeLostError, find_host, run_all
from raylaunch.weights.expected_files import ExpectedFiles, PullRequest
from raylaunch.weights.hub_errors import RESUMES, HubRefusedError
from raylaunch.weights.partial_file import Finished, Unfinished
from raylaunch.weights.progress import PullProgress, PullResult, Reporter, announce
from raylaunch.weights.survey import Survey
from raylaunch.weights.transfer_plan import CHUNKS_AT_MOST, NodeFiles, PlannedTransfer, order_chain, plan_transfers

_FRUITLESS_ROUNDS = 3
_DAMAGED_AT_MOST = 3


async def pull(request: PullRequest, agents: Agents, reporter: Reporter) -> PullResult:
    """Ensure that every node has the complete model, with the same manifest.

    Raises:
        WeightsError: some node could not be completed. Received data is kept, and the next pull resumes.
    """
    return await _Pull(request, agents, reporter).run()


class _Pull:
    def __init__(self, request: PullRequest, agents: Agents, reporter: Reporter) -> None:
        self.request, self.agents, self.reporter = request, agents, reporter
        self.survey = Survey(request, agents, reporter.report)
        self.damages: Counter[tuple[str, str]] = Counter()
        """(node, file) -> how often it arrived damaged."""
        self.failures: list[str] = []
        self.began = time.monotonic()
        self.progress = PullProgress(agents, reporter)
        self.is_announced = False
        self.window = 1
        """Most concurrent chunks of one file between two nodes."""
        self.under_way = asyncio.Semaphore(CHUNKS_AT_MOST)
        """Limits the files in transit."""
        self.seen: set[str] = set()
        """Hosts that were in the cluster at any time."""

    async def run(self) -> PullResult:
        fruitless, most, moved = 0, -1, False
        before: tuple[str, ...] = ()
        while True:
            nodes = self.agents.refresh()
            self.seen.update(map(find_host, nodes))
            self.failures.clear()
            try:
                found = await self.survey.run(nodes)
                if found is None:
                    continue
                expected, node_files = found.expected, found.node_files
                if not await self._run_round(expected, node_files):
                    proven, refused = self.survey.proven, self.survey.refused
                    manifest = await commit.write_manifest(self.agents, expected, next(iter(node_files)), proven)
                    writers = {node: writer for node, writer in found.writers.items() if writer not in refused}
                    await commit.install_everywhere(self.agents, manifest, writers)
                    return self._conclude(expected, nodes, moved=moved)
                moved = True
            except NodeLostError as error:
                self.failures.append(error.what)
                self.reporter.report(f"{error.what}; continuing with the other nodes")
            have = self.progress.measure_arrived()
            fruitless = 0 if have > most or nodes != before else fruitless + 1
            most, before = max(most, have), nodes
            if fruitless >= _FRUITLESS_ROUNDS or max(self.damages.values(), default=0) >= _DAMAGED_AT_MOST:
                raise WeightsError(self.failures[-1] if self.failures else "no more data arrived", fix=RESUMES)

    async def _run_round(self, expected: ExpectedFiles, node_files: dict[str, NodeFiles]) -> bool:
        """Run all planned transfers; returns whether there were any."""
        transfers, nowhere = plan_transfers(expected.sizes, node_files, has_hub=bool(expected.listing.commit))
        if nowhere:
            raise WeightsError(
                f"{', '.join(nowhere[:3])}{' and more' if nowhere[3:] else ''}: no node has the complete file, and no "
                f"node reaches {expected.listing.endpoint}",
                fix="run it again when the hub can be reached, or use a mirror: HF_ENDPOINT=https://<mirror>",
            )
        if not transfers:
            return False
        if not self.is_announced:
            self.is_announced = True
            announce(self.reporter, expected.listing, transfers)
        self.progress.begin(expected.sizes, node_files)
        heads = {transfer.head for transfer in transfers}
        queues: dict[str, deque[PlannedTransfer]] = {head: deque() for head in heads}
        for transfer in transfers:
            queues[transfer.head].append(transfer)
        streams = [
            (queues[head], lane)
            for head in queues
            for lane in range(
                transfer_plan.count_streams(len(heads), self.agents.lanes, from_hub=queues[head][0].from_hub)
            )
        ]
        self.window = transfer_plan.measure_window(len(streams))
        self.under_way = asyncio.Semaphore(CHUNKS_AT_MOST)
        locks = [asyncio.Lock() for _ in streams]
        workers = [
            self._work(queue, lane, sending, expected, node_files)
            for _ in range(transfer_plan.count_files(len(streams)))
            for (queue, lane), sending in zip(streams, locks, strict=True)
        ]
        async with self.progress.shown():
            await asyncio.gather(*workers)
        return True

    async def _work(
        self,
        queue: deque[PlannedTransfer],
        stream: int,
        sending: asyncio.Lock,
        expected: ExpectedFiles,
        node_files: dict[str, NodeFiles],
    ) -> None:
        """Run the transfers of a queue until it is empty or outdated.

        Args:
            sending: held while a file of this stream leaves its head; the one before may still be in transit.
        """
        while queue and not self._is_outdated():
            transfer = queue.popleft()
            try:
                async with self.under_way:
                    await self._transfer(transfer, stream % self.agents.lanes, sending, expected, node_files)
            except NodeLostError as error:
                self._fail(f"{error.what}; {transfer.name} continues without it")
            except HubRefusedError:
                raise
            except WeightsError as error:
                if not transfer.chain and len(node_files) == 1:
                    raise
                self._fail(f"{transfer.head}: {error.what}")
                if transfer.from_hub and not self.progress.measure_arrived():
                    raise

    def _is_outdated(self) -> bool:
        """Whether the nodes changed since the transfers were planned."""
        return bool(self.failures) or self.agents.has_changed()

    def _fail(self, sentence: str) -> None:
        self.failures.append(sentence)
        self.reporter.report(sentence)

    async def _transfer(
        self,
        transfer: PlannedTransfer,
        lane: int,
        sending: asyncio.Lock,
        expected: ExpectedFiles,
        node_files: dict[str, NodeFiles],
    ) -> None:
        """Send one file along its chain; in any case every node closes it and keeps what it has."""
        name, wanted = transfer.name, expected.listing.files[transfer.name]

        def call(node: str, method: str, *arguments: Any, **named: Any) -> Any:
            return self.agents.call(node, method, *arguments, lane=lane, **named)

        opened: list[str] = []
        is_sent = True
        problem: WeightsError | None = None
        try:
            haves: dict[str, int] = {}

            async def open_on(node: str) -> None:
                haves[node] = await call(node, "open", name, wanted, writes=node != transfer.head or transfer.from_hub)
                opened.append(node)

            await run_all(open_on(node) for node in transfer.nodes)
            chain = order_chain(
                transfer.head,
                transfer.chain,
                list(node_files),
                {n: NodeFiles(parts={name: haves.get(n, 0)}) for n in node_files},
                name,
            )
            nodes = (transfer.head, *chain)
            start = min(haves.values()) if chain else haves[transfer.head]

            async def link(node: str, behind: str | None) -> None:
                handle = self.agents.find_handle(behind, lane) if behind else None
                begins = start if node == transfer.head else max(start, haves[node])
                await call(node, "link", name, begins, handle, haves[behind] if behind else 0, self.window)

            await run_all(link(node, behind) for node, behind in zip(nodes, (*chain, None), strict=True))
            listing = expected.listing if transfer.from_hub else None
            async with sending:
                is_sent = not self._is_outdated()  # else the next round plans it again
                if is_sent:
                    await call(transfer.head, "send", name, start, wanted, listing, self.request.access)
        except WeightsError as error:
            problem = error
        for node in (n for n in (transfer.head, *transfer.chain) if n in opened):
            ended = await self._close(node, transfer, lane, expected)
            problem = problem or (ended if is_sent else None)
        if problem is not None:
            raise problem

    async def _close(
        self, node: str, transfer: PlannedTransfer, lane: int, expected: ExpectedFiles
    ) -> WeightsError | None:
        try:
            outcome = await self.agents.call(node, "close", transfer.name, lane=lane)
        except WeightsError as error:
            return error
        if isinstance(outcome, Finished):
            self.survey.proven[node, transfer.name] = outcome.sha256
            self.survey.distrusted.discard((node, transfer.name))
            self.progress.finish(node, transfer.name)
        elif isinstance(outcome, Unfinished):
            if outcome.is_local:
                self.survey.refused[node] = outcome.reason
            if outcome.is_damaged:
                self.damages[node, transfer.name] += 1
                if not transfer.from_hub:
                    await self._recheck_source(transfer, expected)
            return WeightsError(f"{node}: {outcome.reason}")
        return None

    async def _recheck_source(self, transfer: PlannedTransfer, expected: ExpectedFiles) -> None:
        """A file from a peer arrived damaged: check whether it is damaged on the peer's disk."""
        hashes = await self.agents.call(transfer.head, "verify", {transfer.name: expected.listing.files[transfer.name]})
        if transfer.name not in hashes:
            self.survey.proven.pop((transfer.head, transfer.name), None)
            self.survey.distrusted.add((transfer.head, transfer.name))
            self.reporter.report(f"{transfer.head}: {transfer.name} is damaged there")

    def _conclude(self, expected: ExpectedFiles, nodes: tuple[str, ...], *, moved: bool) -> PullResult:
        if refused := self.survey.refused:
            raise WeightsError(
                "; ".join(f"{node}: {reason}" for node, reason in refused.items()),
                fix="free disk space there or allow writing, then run it again: it resumes",
            )
        if lost := sorted(self.seen - set(map(find_host, nodes))):
            raise WeightsError(
                f"{', '.join(lost)} was lost during the pull; {len(nodes)} nodes have the complete model",
                fix="run it again when the node is back: it copies the model from the others",
            )
        listing = expected.listing
        from_hub, from_peers = self.progress.measure_sources()
        return PullResult(
            repo=listing.repo,
            folder=str(self.request.folder),
            source=expected.source,
            commit=listing.commit or None,
            nodes=nodes,
            total_bytes=sum(expected.sizes.values()),
            files=len(expected.sizes),
            left_out_files=len(listing.left_out),
            left_out_bytes=sum(listing.left_out.values()),
            from_hub_bytes=from_hub,
            from_peers_bytes=from_peers,
            seconds=time.monotonic() - self.began,
            already=not moved,
            shared=self.survey.shared,
            replaced=self.survey.replaced,
        )
