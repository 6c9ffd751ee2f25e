"""The agent on each node: an async actor in a Ray cluster, else a plain object.

Its methods return values. Expected failures are WeightsErrors; a dead node is Ray's own error.
"""

import os
import resource
import uuid
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

from raylaunch.base.errors import WeightsError
from raylaunch.node.loader_files import DEFAULT_FORMAT
from raylaunch.node.manifest import FileFacts, Manifest, find_difference
from raylaunch.node.model_folder import find_problems
from raylaunch.weights import hub, store, working_folder
from raylaunch.weights.hub_types import HubAccess, Listing, RepoFile
from raylaunch.weights.own_files import OwnFile
from raylaunch.weights.partial_file import SUFFIX, Finished, PartialFile, Unfinished, hash_file, run_in_thread
from raylaunch.weights.transfer import Transfer, make_hop, read_disk
from raylaunch.weights.working_folder import PROBE, LockOutcome, StorePaths

_HASHERS = 4


@dataclass(slots=True)
class Counts:
    """Bytes that this node received since its agent started."""

    from_hub: int = 0
    from_peers: int = 0
    held: dict[str, int] = field(default_factory=dict)
    """File -> bytes received, for each file in transit."""
    agent: str = ""
    """Id of the agent that counted."""


class NodeAgent:
    """Manages a model's folder on this node, and passes files through the node."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self._transfers: dict[str, Transfer] = {}
        self._counts = Counts(agent=uuid.uuid4().hex)
        self._lock: int | None = None

    # ---- the folder

    async def inspect(self) -> store.StoreState:
        """The state of the folder."""
        return store.inspect(self.folder)

    async def find_problems(self, load_format: str = DEFAULT_FORMAT, *, by_manifest: bool = True) -> tuple[str, ...]:
        """Reasons why the folder is not a complete model.

        Args:
            load_format: the launch's engine.load_format.
            by_manifest: a file that differs from the manifest is one.
        """
        return await run_in_thread(lambda: find_problems(self.folder, load_format=load_format, by_manifest=by_manifest))

    async def list_own(self, names: Collection[str]) -> tuple[OwnFile, ...]:
        """Which of these names the user has in the folder; see store.list_own."""
        return await run_in_thread(lambda: store.list_own(self.folder, names))

    async def move_aside(self, names: Collection[str]) -> Path:
        """Move files of the user into a new folder, whose path is returned."""
        try:
            return store.move_aside(self.folder, names)
        except OSError as error:
            raise WeightsError(
                f"files of {self.folder} cannot be moved aside: {error.strerror}", fix="allow writing there"
            ) from None

    async def reach(self, access: HubAccess) -> str | None:
        """Why this node cannot reach the hub; None if it can."""
        return await run_in_thread(lambda: hub.explain_unreachable(access.endpoint))

    async def list_repo(self, repo: str, revision: str | None, access: HubAccess, load_format: str) -> Listing:
        """List the repo on the hub."""
        return await run_in_thread(lambda: hub.list_repo(repo, revision, access, load_format))

    async def prepare(self, of: str, names: Collection[str], mark: str) -> None:
        """Create the download folder for these files, and this node's marker in it."""
        store.prepare(self.folder, of, names)
        (StorePaths(self.folder).aside / f"{PROBE}{mark}").touch()

    async def read_probes(self) -> frozenset[str]:
        """Markers of all nodes that share this storage."""
        return frozenset(path.name.removeprefix(PROBE) for path in StorePaths(self.folder).aside.glob(f"{PROBE}*"))

    async def drop_probe(self, mark: str) -> None:
        """Remove a marker."""
        (StorePaths(self.folder).aside / f"{PROBE}{mark}").unlink(missing_ok=True)

    async def try_lock(self) -> LockOutcome:
        """Take the folder's lock unless another process has it; it is released when this process ends."""
        if self._lock is not None:
            return LockOutcome.HELD
        outcome, self._lock = working_folder.try_lock(self.folder)
        return outcome

    async def unlock(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    async def verify(self, wanted: Mapping[str, RepoFile]) -> dict[str, str]:
        """Hash these files; name -> SHA-256 of those that match."""

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
        """Files of the folder that differ from a manifest: name -> a sentence.

        Args:
            fast: compare sizes and sampled blocks; else every byte.
        """

        def compare_all() -> dict[str, str]:
            with ThreadPoolExecutor(_HASHERS) as pool:
                found = pool.map(
                    lambda name: find_difference(self.folder, name, files[name], samples=True, complete=not fast),
                    files,
                )
                return {name: difference for name, difference in zip(files, found, strict=True) if difference}

        return await run_in_thread(compare_all)

    async def finish(self, manifest: Manifest) -> None:
        """Move the files into the folder and write the manifest."""
        try:
            await run_in_thread(lambda: store.finish(self.folder, manifest))
        except OSError as error:
            raise WeightsError(
                f"{self.folder} cannot be written: {error}", fix="allow writing there; received data is kept"
            ) from None

    async def remove(self) -> list[str]:
        """Remove the model; sentences on files that were kept."""
        try:
            if not self.folder.parent.is_dir():
                return []
            if await self.try_lock() is LockOutcome.TAKEN:
                raise WeightsError(f"another process fetches into {self.folder}", fix="stop it, or wait until it ends")
            return await run_in_thread(lambda: list(store.remove(self.folder)))
        except OSError as error:
            raise WeightsError(f"{self.folder} cannot be removed: {error}", fix="allow writing there") from None
        finally:
            await self.unlock()  # a node that shares the storage is next

    # ---- files in transit

    async def open(self, name: str, wanted: RepoFile, *, writes: bool) -> int:
        """Start or resume a file; returns the bytes of it that exist here.

        Args:
            writes: False if it is complete here.

        Raises:
            WeightsError: it cannot be written here.
        """
        part = None
        if writes:
            try:
                part = PartialFile(StorePaths(self.folder).aside, name, wanted)
            except OSError as error:
                aside = StorePaths(self.folder).aside
                raise WeightsError(
                    f"{name} cannot be written in {aside}: {error.strerror}",
                    fix=f"free disk space there or allow writing; if another user's pull left it, remove {aside}",
                ) from None
        self._transfers[name] = Transfer(name, part)
        return part.have if part else wanted.size

    async def link(self, name: str, start: int, handle: Any | None, next_have: int, window: int) -> None:
        """Set the next node: its actor's handle, the bytes it has, and the most concurrent calls to it.

        A handle of None makes this the last node of the chain.
        """
        self._transfers[name].link(start, make_hop(handle) if handle is not None else None, next_have, window)

    async def hop(self, name: str, offset: int, data: Any) -> None:
        """Accept a chunk from the previous node."""
        transfer = self._transfers.get(name)
        if transfer is not None:  # else closed: the chain broke at an earlier node
            await transfer.accept(offset, data)
            self._counts.from_peers += memoryview(data).nbytes

    async def send(self, name: str, start: int, wanted: RepoFile, listing: Listing | None, access: HubAccess) -> None:
        """Send the file from `start` as the head of a chain: from this disk, and missing bytes from the hub.

        Returns when the last chunk is in transit.
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
        own = read_disk(StorePaths(self.folder).aside / f"{name}{SUFFIX}", start, have)
        return chain(own, self._count(hub.read_file(listing, name, have, access)))

    def _count(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self._counts.from_hub += len(chunk)
            yield chunk

    async def close(self, name: str) -> Finished | Unfinished | None:
        """Close a file, complete or not; None if this node had it already."""
        outcome = await self._transfers[name].close()
        del self._transfers[name]
        return outcome

    async def count(self) -> Counts:
        """The progress of this node."""
        held = {name: transfer.part.have for name, transfer in self._transfers.items() if transfer.part}
        return replace(self._counts, held=held)

    async def measure(self) -> tuple[float, int]:
        """CPU seconds of this process, and its peak private memory in bytes.

        The peak resident size, without libraries, other mapped files and the object store.
        """
        used = resource.getrusage(resource.RUSAGE_SELF)
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        most_kib, *of_files_kib = (int(status[name].split()[0]) for name in ("VmHWM", "RssFile", "RssShmem"))
        return used.ru_utime + used.ru_stime, (most_kib - sum(of_files_kib)) << 10
