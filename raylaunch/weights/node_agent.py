"""What works on each node: an async actor in a cluster, a plain object where there is none.

Its methods answer with values; an expected failure is a WeightsError, a node that died Ray's own error.
"""

import os
import resource
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

from raylaunch.base.errors import WeightsError
from raylaunch.node.manifest import FileFacts, Manifest, find_difference
from raylaunch.node.model_folder import find_problems
from raylaunch.weights import hub, store
from raylaunch.weights.hub_types import HubAccess, Listing, RepoFile
from raylaunch.weights.partial_file import SUFFIX, Finished, PartialFile, Unfinished, hash_file, run_in_thread
from raylaunch.weights.transfer import Transfer, make_hop, read_disk

_HASHERS = 4


@dataclass(slots=True)
class Counts:
    """Bytes that came to this node since its agent began."""

    from_hub: int = 0
    from_peers: int = 0
    held: dict[str, int] = field(default_factory=dict)
    """File -> bytes of it that are here, of files under way."""
    agent: str = ""
    """Which agent counted."""


class NodeAgent:
    """Looks after a model's folder on this node, and passes files through it."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self._transfers: dict[str, Transfer] = {}
        self._counts = Counts(agent=uuid.uuid4().hex)
        self._lock: int | None = None

    # ---- the folder

    async def inspect(self) -> store.StoreState:
        """What lies here."""
        return store.inspect(self.folder)

    async def find_problems(self) -> tuple[str, ...]:
        """What keeps the folder from being a whole model, by its own index."""
        return await run_in_thread(lambda: find_problems(self.folder))

    async def reach(self, access: HubAccess) -> str | None:
        """Why this node cannot ask the hub; None where it can."""
        return await run_in_thread(lambda: hub.explain_unreachable(access.endpoint))

    async def list_repo(self, repo: str, revision: str | None, access: HubAccess) -> Listing:
        """What the hub has."""
        return await run_in_thread(lambda: hub.list_repo(repo, revision, access))

    async def prepare(self, of: str, mark: str) -> None:
        """Make the folder that files are kept in meanwhile, and leave this node's mark in it."""
        store.prepare(self.folder, of)
        store.write_probe(self.folder, mark)

    async def read_probes(self) -> frozenset[str]:
        """Marks of all nodes that share this storage."""
        return store.read_probes(self.folder)

    async def drop_probe(self, mark: str) -> None:
        """Take a mark away."""
        store.drop_probe(self.folder, mark)

    async def try_lock(self) -> bool:
        """Take the folder's lock, unless another process has it; it goes with this one."""
        if self._lock is None:
            self._lock = store.try_lock(self.folder)
        return self._lock is not None

    async def unlock(self) -> None:
        """Give the lock back."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    async def verify(self, wanted: Mapping[str, RepoFile]) -> dict[str, str]:
        """Read these files whole; name -> SHA-256 of those that are what they should be."""

        def hash_all() -> dict[str, str]:
            with ThreadPoolExecutor(_HASHERS) as pool:
                hashes = pool.map(lambda name: self._hash(name, wanted[name]), wanted)
                return {name: sha256 for name, sha256 in zip(wanted, hashes, strict=True) if sha256}

        return await run_in_thread(hash_all)

    def _hash(self, name: str, wanted: RepoFile) -> str | None:
        path = store.find_file(self.folder, name)
        sha256 = None if path is None else hash_file(path, wanted)
        if sha256 is None:
            store.take_back(self.folder, name)
        return sha256

    async def compare(self, files: Mapping[str, FileFacts], *, fast: bool) -> dict[str, str]:
        """Files of the folder that are not what a manifest says: name -> a sentence.

        Args:
            fast: by sizes and sampled blocks; else every byte.
        """

        def compare_all() -> dict[str, str]:
            with ThreadPoolExecutor(_HASHERS) as pool:
                told = pool.map(
                    lambda name: find_difference(self.folder / name, files[name], samples=True, complete=not fast),
                    files,
                )
                return {name: difference for name, difference in zip(files, told, strict=True) if difference}

        return await run_in_thread(compare_all)

    async def finish(self, manifest: Manifest) -> None:
        """Give the files their place and leave the manifest."""
        try:
            await run_in_thread(lambda: store.finish(self.folder, manifest))
        except OSError as error:
            raise WeightsError(
                f"{self.folder} cannot be finished: {error}", fix="allow writing there; what came is kept"
            ) from None

    async def remove(self) -> list[str]:
        """Remove what raylaunch made here; sentences on what was kept."""
        if self.folder.parent.is_dir() and not await self.try_lock():
            raise WeightsError(f"another process fetches into {self.folder}", fix="end it, or wait for it")
        try:
            return await run_in_thread(lambda: list(store.remove(self.folder)))
        except OSError as error:
            raise WeightsError(f"{self.folder} cannot be removed: {error}", fix="allow writing there") from None

    # ---- files on their way

    async def open(self, name: str, wanted: RepoFile, *, writes: bool) -> int:
        """Begin with a file, or take it up again; bytes of it that are here.

        Args:
            writes: False where it is here whole.

        Raises:
            WeightsError: it cannot be written here.
        """
        part = None
        if writes:
            try:
                part = PartialFile(store.StorePaths(self.folder).aside, name, wanted)
            except OSError as error:
                raise WeightsError(f"{name} cannot be written beside {self.folder}: {error.strerror}") from None
        self._transfers[name] = Transfer(name, part)
        return part.have if part else wanted.size

    async def link(self, name: str, start: int, handle: Any | None, next_have: int, window: int) -> None:
        """Name the node behind: its actor's handle, the bytes it has, and how many calls to it may be under way.

        None for the handle ends the chain here.
        """
        self._transfers[name].link(start, make_hop(handle) if handle is not None else None, next_have, window)

    async def hop(self, name: str, offset: int, data: Any) -> None:
        """Take a chunk from the node before."""
        transfer = self._transfers.get(name)
        if transfer is not None:  # else closed meanwhile: the chain broke before us
            await transfer.accept(offset, data)
            self._counts.from_peers += memoryview(data).nbytes

    async def send(self, name: str, start: int, wanted: RepoFile, listing: Listing | None, access: HubAccess) -> None:
        """Be the head of a chain: send the file from `start`, out of this disk, and what is not there from the hub.

        Returns once the last chunk is on its way.
        """
        transfer = self._transfers[name]
        await transfer.send(self._read(transfer, start, wanted, listing, access))

    def _read(
        self, transfer: Transfer, start: int, wanted: RepoFile, listing: Listing | None, access: HubAccess
    ) -> Iterator[bytes]:
        name, part = transfer.name, transfer.part
        if part is None:
            path = store.find_file(self.folder, name)
            return read_disk(path, start, wanted.size) if path else iter(())
        assert listing is not None
        have = part.have
        own = read_disk(store.StorePaths(self.folder).aside / f"{name}{SUFFIX}", start, have)
        return chain(own, self._count(hub.read_file(listing, name, have, access)))

    def _count(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self._counts.from_hub += len(chunk)
            yield chunk

    async def close(self, name: str) -> Finished | Unfinished | None:
        """End a file's way through this node, whether it came whole or not; None where this node had it already."""
        outcome = await self._transfers[name].close()
        del self._transfers[name]
        return outcome

    async def count(self) -> Counts:
        """How far this node is."""
        held = {name: transfer.part.have for name, transfer in self._transfers.items() if transfer.part}
        return replace(self._counts, held=held)

    async def measure(self) -> tuple[float, int]:
        """CPU seconds of this process, and the most memory it held of its own, in bytes.

        That is the high-water mark of what is resident, without its libraries, other mapped files and the object store.
        """
        used = resource.getrusage(resource.RUSAGE_SELF)
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        most_kib, *of_files_kib = (int(status[name].split()[0]) for name in ("VmHWM", "RssFile", "RssShmem"))
        return used.ru_utime + used.ru_stime, (most_kib - sum(of_files_kib)) << 10
