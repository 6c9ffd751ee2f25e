"""Before anything moves: what each node has, what the model should be, and which nodes share a storage."""

import asyncio
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from raylaunch.base.errors import WeightsError
from raylaunch.node.manifest import FileFacts, Manifest
from raylaunch.weights.agents import Crew
from raylaunch.weights.hub import choose_files
from raylaunch.weights.hub_types import HubAccess, Listing, RepoFile
from raylaunch.weights.store import Look
from raylaunch.weights.transfer_plan import Holding, measure_missing

Say = Callable[[str], None]
Proven = dict[tuple[str, str], str]
"""(node, file) -> SHA-256 of files that a pull saw whole; grows."""


@dataclass(frozen=True)
class Order:
    """What a pull is asked for."""

    repo: str
    revision: str | None
    folder: Path
    access: HubAccess
    verify: bool = False
    """Read every file that is there whole, even where a manifest and samples speak for it."""


@dataclass
class Truth:
    """What the model should be, and how that is known."""

    listing: Listing
    source: str
    facts: dict[str, FileFacts] = field(default_factory=dict)
    """File -> what is known of it beyond the listing; SHA-256 of all of them once it is finished."""

    @property
    def sizes(self) -> dict[str, int]:
        """File -> bytes."""
        return {name: file.size for name, file in self.listing.files.items()}

    @property
    def key(self) -> str:
        """What a pull of this writes down, to know its own files again."""
        return f"{self.listing.repo} {self.listing.commit or self.source}"

    @classmethod
    def of_manifest(cls, manifest: Manifest, access: HubAccess) -> "Truth":
        """What a finished pull wrote down; the hub need not be asked."""
        listing = Listing(
            manifest.repo,
            manifest.revision,
            manifest.commit or "",
            access.endpoint,
            {name: RepoFile(facts.size, facts.sha256) for name, facts in manifest.files.items()},
            manifest.left_out,
        )
        return cls(listing, manifest.source, dict(manifest.files))

    def to_manifest(self) -> Manifest:
        """What to leave in each folder."""
        listing = self.listing
        files = {
            name: FileFacts(file.size, self.facts[name].sha256 if name in self.facts else file.sha256)
            for name, file in listing.files.items()
        }
        return Manifest(
            listing.repo, listing.revision, self.source, files, listing.commit or None, dict(listing.left_out)
        )


async def look_everywhere(crew: Crew, nodes: Sequence[str]) -> dict[str, Look]:
    """What lies at the model's path on each node.

    Raises:
        WeightsError: on some node nothing can lie there.
    """
    looks = dict(zip(nodes, await asyncio.gather(*(crew.call(node, "look") for node in nodes)), strict=True))
    for node, seen in looks.items():
        if seen.problem:
            raise WeightsError(f"{node}: {seen.problem}", fix=seen.fix)
    return looks


async def have_changed(crew: Crew, looks: Mapping[str, Look], nodes: Sequence[str]) -> bool:
    """Whether files came or went on these nodes since the looks: another pull can have ended before we had its lock."""
    again = await look_everywhere(crew, nodes)
    return any(again[node].contents != looks[node].contents for node in nodes)


async def find_truth(crew: Crew, order: Order, looks: Mapping[str, Look], proven: Proven, say: Say) -> Truth:
    """What the model should be: by a manifest that some node has, else the hub, else a folder that somebody filled.

    Raises:
        WeightsError: nobody knows.
    """
    known = [seen.manifest for seen in looks.values() if seen.manifest]
    asked = [manifest for manifest in known if manifest.is_of(order.repo, order.revision)]
    if asked:
        texts = [repr(manifest.files) for manifest in asked]
        common = Counter(texts).most_common(1)[0][0]
        return Truth.of_manifest(asked[texts.index(common)], order.access)
    reasons = await _reach_everywhere(crew, order, looks)
    for node, reason in zip(looks, reasons, strict=True):
        if reason is None:
            listing: Listing = await crew.call(node, "list_repo", order.repo, order.revision, order.access)
            return Truth(listing, listing.source)
    if order.revision is None:
        for node, seen in looks.items():
            if (truth := await _adopt(crew, order, node, seen, proven)) is not None:
                say(f"{reasons[0]}: taking the folder on {node} for what {order.repo} should be")
                return truth
    raise WeightsError(
        f"{order.repo} is not on {'this machine' if len(looks) == 1 else 'any node'}, and {reasons[0]}",
        fix=f"from a mirror: HF_ENDPOINT=https://<mirror>; or where the hub is in reach `hf download {order.repo} "
        f"--local-dir DIR`, and bring DIR to {order.folder}",
    )


async def _adopt(crew: Crew, order: Order, node: str, seen: Look, proven: Proven) -> Truth | None:
    """A folder filled by hand, if it is a whole model by its own index."""
    if not seen.files or await crew.call(node, "judge"):
        return None
    wanted = {name: RepoFile(seen.files[name]) for name in choose_files(seen.files)}
    hashes = await _verify(crew, node, wanted, proven)
    files = {name: RepoFile(file.size, hashes[name]) for name, file in wanted.items() if name in hashes}
    listing = Listing(order.repo, order.revision, "", order.access.endpoint, files, {})
    return Truth(listing, f"{order.folder} on {node}, filled by hand")


async def _verify(crew: Crew, node: str, wanted: Mapping[str, RepoFile], proven: Proven) -> dict[str, str]:
    """Read files whole that were not yet; name -> SHA-256 of those that are what they should be."""
    unread = {name: file for name, file in wanted.items() if (node, name) not in proven}
    hashes: dict[str, str] = await crew.call(node, "verify", unread) if unread else {}
    proven.update({(node, name): sha256 for name, sha256 in hashes.items()})
    return {name: proven[node, name] for name in wanted if (node, name) in proven}


async def find_holdings(
    crew: Crew, order: Order, truth: Truth, looks: Mapping[str, Look], proven: Proven, say: Say
) -> dict[str, Holding]:
    """What each node has that is right; differences from a manifest are told by name."""
    found = await asyncio.gather(
        *(_find_whole(crew, order, truth, node, seen, proven, say) for node, seen in looks.items())
    )
    reached = [False] * len(looks)
    if truth.listing.commit and truth.sizes.keys() - frozenset().union(*found):  # else nobody needs the hub
        reached = [reason is None for reason in await _reach_everywhere(crew, order, looks)]
    return {
        node: Holding(
            whole,
            {name: seen.parts[name] for name in truth.sizes if name in seen.parts and name not in whole},
            reaches_hub=reaches,
        )
        for (node, seen), whole, reaches in zip(looks.items(), found, reached, strict=True)
    }


async def _reach_everywhere(crew: Crew, order: Order, nodes: Iterable[str]) -> list[str | None]:
    """Why each node cannot ask the hub; None where it can."""
    return list(await asyncio.gather(*(crew.call(node, "reach", order.access) for node in nodes)))


async def _find_whole(
    crew: Crew, order: Order, truth: Truth, node: str, seen: Look, proven: Proven, say: Say
) -> frozenset[str]:
    """Files that are right: by this pull, by an interrupted one, by manifest and samples, else by their hash."""
    sizes = truth.sizes
    there = {name for name, size in sizes.items() if size in (seen.files.get(name), seen.aside.get(name))}
    whole = {name for name in there if (node, name) in proven}
    if not order.verify:
        if seen.aside_of == truth.key:
            whole |= {name for name in there if seen.aside.get(name) == sizes[name]}
        facts = seen.manifest.files if seen.manifest else {}
        vouched = {
            name: facts[name]
            for name, file in truth.listing.files.items()
            if name in facts and facts[name].sha256 and facts[name].sha256 == file.sha256
        }
        told: dict[str, str] = await crew.call(node, "compare", vouched, fast=True) if vouched else {}
        for name in sorted(told.keys() - whole):
            say(f"{node}: {told[name]}")
        whole |= vouched.keys() - told.keys()
        there -= told.keys()
    if unproven := {name: truth.listing.files[name] for name in sorted(there - whole)}:
        size = sum(sizes[name] for name in unproven) / 1e9
        say(f"{node}: hashing {len(unproven)} files that are there ({size:.1f} GB)")
        hashes = await _verify(crew, node, unproven, proven)
        for name in sorted(unproven.keys() - hashes.keys()):
            say(f"{node}: {name} is not what it should be (hash differs)")
        whole |= hashes.keys()
    return frozenset(whole)


async def find_storages(crew: Crew, truth: Truth, lacking: Sequence[str]) -> dict[str, str]:
    """Which of the `lacking` nodes share a storage: node -> the one of them that writes there.

    Each node leaves a mark beside the folder and reads the marks of all: who sees another's mark shares its storage.

    Raises:
        WeightsError: nothing can be written on some node, and no other writes for it.
    """
    marks = {node: uuid.uuid4().hex for node in lacking}
    refusals: dict[str, WeightsError] = {}
    for node in lacking:
        try:
            await crew.call(node, "prepare", truth.key, marks[node])
        except WeightsError as error:
            refusals[node] = error
    try:
        seen = {node: await crew.call(node, "read_probes") for node in lacking}
    finally:
        for node in lacking:
            if node not in refusals:
                await crew.call(node, "drop_probe", marks[node])
    writers: dict[str, str] = {}
    for node in lacking:
        sharers = [other for other in lacking if marks[other] in seen[node]]
        if not sharers:
            raise WeightsError(f"{node}: {refusals[node].what}", fix=refusals[node].fix)
        writers[node] = sharers[0]
    return writers


def check_room(truth: Truth, looks: Mapping[str, Look], holdings: Mapping[str, Holding], folder: Path) -> None:
    """See that every node has the space for what it lacks.

    Raises:
        WeightsError: naming each that has not.
    """
    short = []
    for node, holding in holdings.items():
        missing, free = measure_missing(truth.sizes, holding), looks[node].free_bytes
        if missing > free:
            short.append(
                f"{node} needs {missing / 1e9:.1f} GB more in {folder.parent}, and {free / 1e9:.1f} GB are free"
            )
    if short:
        raise WeightsError(
            f"{truth.listing.repo}: " + "; ".join(short),
            fix="make room there, or choose another model.path (RAYLAUNCH_HOME, where it has none)",
        )
