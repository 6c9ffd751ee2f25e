"""Pull a model: from what is known of every node to every node having it, whatever goes away meanwhile.

Each round looks at all nodes anew, so a pull that was killed, a node that joined and a node that was lost are one case.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any

from raylaunch.base.errors import WeightsError
from raylaunch.weights import commit, inventory
from raylaunch.weights.agents import Crew, NodeLostError, find_host, run_all
from raylaunch.weights.hub_errors import RESUMES, HubRefusedError
from raylaunch.weights.inventory import Order, Proven, Truth
from raylaunch.weights.partial_file import Finished, Unfinished
from raylaunch.weights.progress import Progress, PullResult, Reporter, announce
from raylaunch.weights.transfer_plan import (
    PIECES_AT_MOST,
    Holding,
    Move,
    count_files,
    count_streams,
    measure_window,
    order_chain,
    plan_moves,
)

_FRUITLESS_ROUNDS = 3
_LOCK_POLL_S = 0.5
_DAMAGED_AT_MOST = 3


async def pull(order: Order, crew: Crew, reporter: Reporter) -> PullResult:
    """See to it that every node has the whole model, with the same manifest.

    Raises:
        WeightsError: some node cannot have it. What came is kept, and the next pull goes on from it.
    """
    return await _Pull(order, crew, reporter).run()


class _Pull:
    def __init__(self, order: Order, crew: Crew, reporter: Reporter) -> None:
        self.order, self.crew, self.reporter = order, crew, reporter
        self.proven: Proven = {}
        self.refused: dict[str, str] = {}
        """Node -> why nothing can be written there any more."""
        self.damages: Counter[tuple[str, str]] = Counter()
        """(node, file) -> how often it came wrong there."""
        self.distrusted: set[tuple[str, str]] = set()
        """(node, file) that looked right and is not."""
        self.failures: list[str] = []
        self.began = time.monotonic()
        self.progress = Progress(crew, reporter)
        self.shared: dict[str, str] = {}
        self.is_announced = False
        self.window = 1
        """Pieces of one file under way between two nodes."""
        self.under_way = asyncio.Semaphore(PIECES_AT_MOST)
        """Files under way."""
        self.seen: set[str] = set()
        """Hosts that took part at any time."""

    async def run(self) -> PullResult:
        fruitless, most, moved = 0, -1, False
        before: tuple[str, ...] = ()
        while True:
            nodes = self.crew.refresh()
            self.seen.update(map(find_host, nodes))
            self.failures.clear()
            try:
                state = await self._survey(nodes)
                if state is None:
                    continue
                truth, holdings, writers = state
                if not await self._run_round(truth, holdings):
                    manifest = await commit.write_manifest(self.crew, truth, next(iter(holdings)), self.proven)
                    served = {n: writers.get(n, n) for n in nodes if writers.get(n, n) not in self.refused}
                    await commit.put_in_place(self.crew, manifest, served)
                    return self._conclude(truth, nodes, moved=moved)
                moved = True
            except NodeLostError as error:
                self.failures.append(error.what)
                self.reporter.say(f"{error.what}; going on with the others")
            have = self.progress.measure_arrived()
            fruitless = 0 if have > most or nodes != before else fruitless + 1
            most, before = max(most, have), nodes
            if fruitless >= _FRUITLESS_ROUNDS or max(self.damages.values(), default=0) >= _DAMAGED_AT_MOST:
                raise WeightsError(self.failures[-1] if self.failures else "nothing more came", fix=RESUMES)

    async def _survey(self, nodes: Sequence[str]) -> "tuple[Truth, dict[str, Holding], dict[str, str]] | None":
        """What is, and what should be; None where it has to be looked at again: somebody else pulled meanwhile."""
        order, say = self.order, self.reporter.say
        looks = await inventory.look_everywhere(self.crew, nodes)
        truth = await inventory.find_truth(self.crew, order, looks, self.proven, say)
        holdings = await inventory.find_holdings(self.crew, order, truth, looks, self.proven, say)
        for node, name in self.distrusted:
            if node in holdings:
                holdings[node] = holdings[node].without({name})
        writable = [node for node in nodes if node not in self.refused]
        lacking = [node for node in writable if truth.sizes.keys() - holdings[node].whole or not looks[node].manifest]
        writers = await inventory.find_storages(self.crew, truth, lacking)
        for node, writer in writers.items():
            if node != writer and self.shared.get(node) != writer:
                say(f"{node}: shares its storage with {writer}")
                self.shared[node] = writer
        written = [node for node in lacking if writers[node] == node]
        await self._lock(written)
        if await inventory.have_changed(self.crew, looks, written):
            return None
        mine = {node: holdings[node] for node in writable if writers.get(node, node) == node}
        inventory.check_room(truth, looks, mine, order.folder)
        return truth, mine, writers

    async def _lock(self, nodes: Sequence[str]) -> None:
        """Take the locks, always in the same order, after other pulls that have them."""
        waited = False
        for node in nodes:
            while not await self.crew.call(node, "try_lock"):
                if not waited:
                    self.reporter.say(f"{node}: another process fetches into {self.order.folder}: waiting for it")
                waited = True
                await asyncio.sleep(_LOCK_POLL_S)

    async def _run_round(self, truth: Truth, holdings: dict[str, Holding]) -> bool:
        """Move what can be moved; whether there was anything to move."""
        moves, nowhere = plan_moves(truth.sizes, holdings, has_hub=bool(truth.listing.commit))
        if nowhere:
            raise WeightsError(
                f"{', '.join(nowhere[:3])}{' and more' if nowhere[3:] else ''}: no node has it whole, and no node "
                f"reaches {truth.listing.endpoint}",
                fix="run it again where the hub is in reach, or from a mirror: HF_ENDPOINT=https://<mirror>",
            )
        if not moves:
            return False
        if not self.is_announced:
            self.is_announced = True
            announce(self.reporter, truth.listing, moves)
        self.progress.begin(truth.sizes, holdings)
        heads = {move.head for move in moves}
        queues: dict[str, deque[Move]] = {head: deque() for head in heads}
        for move in moves:
            queues[move.head].append(move)
        streams = [
            (queues[head], lane)
            for head in queues
            for lane in range(count_streams(len(heads), self.crew.lanes, from_hub=queues[head][0].from_hub))
        ]
        self.window = measure_window(len(streams))
        self.under_way = asyncio.Semaphore(PIECES_AT_MOST)
        locks = [asyncio.Lock() for _ in streams]
        workers = [
            self._work(queue, lane, sending, truth, holdings)
            for _ in range(count_files(len(streams)))
            for (queue, lane), sending in zip(streams, locks, strict=True)
        ]
        async with self.progress.shown():
            await asyncio.gather(*workers)
        return True

    async def _work(
        self, queue: deque[Move], stream: int, sending: asyncio.Lock, truth: Truth, holdings: dict[str, Holding]
    ) -> None:
        """Take moves from a queue until it is empty, or outdated.

        Args:
            sending: held while a file of this stream leaves its head; the one before may still be on its way.
        """
        while queue and not self._is_outdated():
            move = queue.popleft()
            try:
                async with self.under_way:
                    await self._move(move, stream % self.crew.lanes, sending, truth, holdings)
            except NodeLostError as error:
                self._fail(f"{error.what}; {move.name} goes on without it")
            except HubRefusedError:
                raise
            except WeightsError as error:
                if not move.chain and len(holdings) == 1:
                    raise
                self._fail(f"{move.head}: {error.what}")
                if move.from_hub and not self.progress.measure_arrived():
                    raise

    def _is_outdated(self) -> bool:
        """Whether the nodes are not those that the moves were planned for."""
        return bool(self.failures) or self.crew.has_changed()

    def _fail(self, sentence: str) -> None:
        self.failures.append(sentence)
        self.reporter.say(sentence)

    async def _move(
        self, move: Move, lane: int, sending: asyncio.Lock, truth: Truth, holdings: dict[str, Holding]
    ) -> None:
        """One file down its chain; whatever happens, every node closes it and keeps what it has."""
        name, wanted = move.name, truth.listing.files[move.name]

        def call(node: str, method: str, *arguments: Any, **named: Any) -> Any:
            return self.crew.call(node, method, *arguments, lane=lane, **named)

        opened: list[str] = []
        is_sent = True
        problem: WeightsError | None = None
        try:
            haves: dict[str, int] = {}

            async def open_on(node: str) -> None:
                haves[node] = await call(node, "open", name, wanted, writes=node != move.head or move.from_hub)
                opened.append(node)

            await run_all(open_on(node) for node in move.nodes)
            chain = order_chain(
                move.head,
                move.chain,
                list(holdings),
                {n: Holding(parts={name: haves.get(n, 0)}) for n in holdings},
                name,
            )
            nodes = (move.head, *chain)
            start = min(haves.values()) if chain else haves[move.head]

            async def link(node: str, behind: str | None) -> None:
                handle = self.crew.find_handle(behind, lane) if behind else None
                begins = start if node == move.head else max(start, haves[node])
                await call(node, "link", name, begins, handle, haves[behind] if behind else 0, self.window)

            await run_all(link(node, behind) for node, behind in zip(nodes, (*chain, None), strict=True))
            listing = truth.listing if move.from_hub else None
            async with sending:
                is_sent = not self._is_outdated()  # else it is planned anew
                if is_sent:
                    await call(move.head, "send", name, start, wanted, listing, self.order.access)
        except WeightsError as error:
            problem = error
        for node in (n for n in (move.head, *move.chain) if n in opened):
            ended = await self._close(node, move, lane, truth)
            problem = problem or (ended if is_sent else None)
        if problem is not None:
            raise problem

    async def _close(self, node: str, move: Move, lane: int, truth: Truth) -> WeightsError | None:
        try:
            outcome = await self.crew.call(node, "close", move.name, lane=lane)
        except WeightsError as error:
            return error
        if isinstance(outcome, Finished):
            self.proven[node, move.name] = outcome.sha256
            self.distrusted.discard((node, move.name))
            self.progress.finish(node, move.name)
        elif isinstance(outcome, Unfinished):
            if outcome.is_local:
                self.refused[node] = outcome.reason
            if outcome.is_damaged:
                self.damages[node, move.name] += 1
                if not move.from_hub:
                    await self._suspect(move, truth)
            return WeightsError(f"{node}: {outcome.reason}")
        return None

    async def _suspect(self, move: Move, truth: Truth) -> None:
        """A peer's file came wrong: is it wrong on the peer's own disk?"""
        hashes = await self.crew.call(move.head, "verify", {move.name: truth.listing.files[move.name]})
        if move.name not in hashes:
            self.proven.pop((move.head, move.name), None)
            self.distrusted.add((move.head, move.name))
            self.reporter.say(f"{move.head}: {move.name} is damaged there")

    def _conclude(self, truth: Truth, nodes: tuple[str, ...], *, moved: bool) -> PullResult:
        if self.refused:
            raise WeightsError(
                "; ".join(f"{node}: {reason}" for node, reason in self.refused.items()),
                fix="make room there, or allow writing, and run it again: it goes on",
            )
        if lost := sorted(self.seen - set(map(find_host, nodes))):
            raise WeightsError(
                f"{', '.join(lost)} was lost on the way; {len(nodes)} nodes have the model whole",
                fix="bring it back and run it again: it takes the model from the others",
            )
        listing = truth.listing
        hub_bytes, peer_bytes = self.progress.measure_sources()
        return PullResult(
            repo=listing.repo,
            folder=str(self.order.folder),
            source=truth.source,
            commit=listing.commit or None,
            nodes=nodes,
            total_bytes=sum(truth.sizes.values()),
            files=len(truth.sizes),
            left_out_files=len(listing.left_out),
            left_out_bytes=sum(listing.left_out.values()),
            from_hub_bytes=hub_bytes,
            from_peers_bytes=peer_bytes,
            seconds=time.monotonic() - self.began,
            already=not moved,
            shared=self.shared,
        )
