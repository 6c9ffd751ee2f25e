"""Before a transfer: what each node has, which files the model consists of, and which nodes share storage."""

import asyncio
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from raylaunch.base.errors import WeightsError
from raylaunch.node.manifest import FileFacts, Manifest
from raylaunch.weights.agents import Agents
from raylaunch.weights.hub import choose_files
from raylaunch.weights.hub_types import HubAccess, Listing, RepoFile
from raylaunch.weights.store import StoreState
from raylaunch.weights.transfer_plan import NodeFiles, measure_missing

Report = Callable[[str], None]
Proven = dict[tuple[str, str], str]
"""(node, file) -> SHA-256 of files that a pull read completely; grows."""


@dataclass(frozen=True)
class PullRequest:
    """What a pull shall fetch."""

    repo: str
    revision: str | None
    folder: Path
    access: HubAccess
    verify: bool = False
    """Hash every existing file, even if its manifest and samples match."""


@dataclass
class ExpectedFiles:
    """The files that the model consists of, and the source of that list."""

    listing: Listing
    source: str
    facts: dict[str, FileFacts] = field(default_factory=dict)
    """File -> facts that the listing lacks; has the SHA-256 of all files at the end of a pull."""

    @property
    def sizes(self) -> dict[str, int]:
        """File -> bytes."""
        return {name: file.size for name, file in self.listing.files.items()}

    @property
    def key(self) -> str:
        """Identifies the pull that left files in the download folder."""
        return f"{self.listing.repo} {self.listing.commit or self.source}"

    @classmethod
    def of_manifest(cls, manifest: Manifest, access: HubAccess) -> "ExpectedFiles":
        """The files of an earlier pull; needs no request to the hub."""
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
        """The manifest to write in each folder."""
        listing = self.listing
        files = {
            name: FileFacts(file.size, self.facts[name].sha256 if name in self.facts else file.sha256)
            for name, file in listing.files.items()
        }
        return Manifest(
            listing.repo, listing.revision, self.source, files, listing.commit or None, dict(listing.left_out)
        )


async def inspect_all(agents: Agents, nodes: Sequence[str]) -> dict[str, StoreState]:
    """The state of the model's folder on each node.

    Raises:
        WeightsError: the path cannot be used on some node.
    """
    states = dict(zip(nodes, await asyncio.gather(*(agents.call(node, "inspect") for node in nodes)), strict=True))
    for node, seen in states.items():
        if seen.problem:
            raise WeightsError(f"{node}: {seen.problem}", fix=seen.fix)
    return states


async def have_changed(agents: Agents, states: Mapping[str, StoreState], nodes: Sequence[str]) -> bool:
    """Whether files on these nodes changed since `states`: another pull can end before this one has its lock."""
    again = await inspect_all(agents, nodes)
    return any(again[node].contents != states[node].contents for node in nodes)


async def find_expected(
    agents: Agents, request: PullRequest, states: Mapping[str, StoreState], proven: Proven, report: Report
) -> ExpectedFiles:
    """The expected files: from a node's manifest, else from the hub, else from a folder that was filled by hand.

    Raises:
        WeightsError: none of them is available.
    """
    known = [seen.manifest for seen in states.values() if seen.manifest]
    asked = [manifest for manifest in known if manifest.is_of(request.repo, request.revision)]
    if asked:
        texts = [repr(manifest.files) for manifest in asked]
        common = Counter(texts).most_common(1)[0][0]
        return ExpectedFiles.of_manifest(asked[texts.index(common)], request.access)
    reasons = await _reach_everywhere(agents, request, states)
    for node, reason in zip(states, reasons, strict=True):
        if reason is None:
            listing: Listing = await agents.call(node, "list_repo", request.repo, request.revision, request.access)
            return ExpectedFiles(listing, listing.source)
    if request.revision is None:
        for node, seen in states.items():
            if (expected := await _adopt(agents, request, node, seen, proven)) is not None:
                report(f"{reasons[0]}: using the folder on {node} as {request.repo}")
                return expected
    raise WeightsError(
        f"{request.repo} is not on {'this machine' if len(states) == 1 else 'any node'}, and {reasons[0]}",
        fix=f"use a mirror: HF_ENDPOINT=https://<mirror>; or run `hf download {request.repo} --local-dir DIR` on a "
        f"machine that reaches the hub, and copy DIR to {request.folder}",
    )


async def _adopt(
    agents: Agents, request: PullRequest, node: str, seen: StoreState, proven: Proven
) -> ExpectedFiles | None:
    """The files of a folder that was filled by hand; None if it is not a complete model."""
    if not seen.files or await agents.call(node, "find_problems"):
        return None
    wanted = {name: RepoFile(seen.files[name]) for name in choose_files(seen.files)}
    hashes = await _verify(agents, node, wanted, proven)
    files = {name: RepoFile(file.size, hashes[name]) for name, file in wanted.items() if name in hashes}
    listing = Listing(request.repo, request.revision, "", request.access.endpoint, files, {})
    return ExpectedFiles(listing, f"{request.folder} on {node}, filled by hand")


async def _verify(agents: Agents, node: str, wanted: Mapping[str, RepoFile], proven: Proven) -> dict[str, str]:
    """Hash the files that were not hashed yet; name -> SHA-256 of those that match."""
    unread = {name: file for name, file in wanted.items() if (node, name) not in proven}
    hashes: dict[str, str] = await agents.call(node, "verify", unread) if unread else {}
    proven.update({(node, name): sha256 for name, sha256 in hashes.items()})
    return {name: proven[node, name] for name in wanted if (node, name) in proven}


async def find_node_files(
    agents: Agents,
    request: PullRequest,
    expected: ExpectedFiles,
    states: Mapping[str, StoreState],
    proven: Proven,
    report: Report,
) -> dict[str, NodeFiles]:
    """What each node has and is correct; reports each file that differs from a manifest."""
    found = await asyncio.gather(
        *(_find_complete(agents, request, expected, node, seen, proven, report) for node, seen in states.items())
    )
    reached = [False] * len(states)
    if expected.listing.commit and expected.sizes.keys() - frozenset().union(*found):  # else no node needs the hub
        reached = [reason is None for reason in await _reach_everywhere(agents, request, states)]
    return {
        node: NodeFiles(
            complete,
            {name: seen.parts[name] for name in expected.sizes if name in seen.parts and name not in complete},
            reaches_hub=reaches,
        )
        for (node, seen), complete, reaches in zip(states.items(), found, reached, strict=True)
    }


async def _reach_everywhere(agents: Agents, request: PullRequest, nodes: Iterable[str]) -> list[str | None]:
    """Why each node cannot reach the hub; None if it can."""
    return list(await asyncio.gather(*(agents.call(node, "reach", request.access) for node in nodes)))


async def _find_complete(
    agents: Agents,
    request: PullRequest,
    expected: ExpectedFiles,
    node: str,
    seen: StoreState,
    proven: Proven,
    report: Report,
) -> frozenset[str]:
    """Correct files: proven by this pull or an interrupted one, by manifest and samples, else by their hash."""
    sizes = expected.sizes
    existing = {name for name, size in sizes.items() if size in (seen.files.get(name), seen.aside.get(name))}
    complete = {name for name in existing if (node, name) in proven}
    if not request.verify:
        if seen.aside_of == expected.key:
            complete |= {name for name in existing if seen.aside.get(name) == sizes[name]}
        facts = seen.manifest.files if seen.manifest else {}
        listed = {
            name: facts[name]
            for name, file in expected.listing.files.items()
            if name in facts and facts[name].sha256 and facts[name].sha256 == file.sha256
        }
        differences: dict[str, str] = await agents.call(node, "compare", listed, fast=True) if listed else {}
        for name in sorted(differences.keys() - complete):
            report(f"{node}: {differences[name]}")
        complete |= listed.keys() - differences.keys()
        existing -= differences.keys()
    if unproven := {name: expected.listing.files[name] for name in sorted(existing - complete)}:
        size = sum(sizes[name] for name in unproven) / 1e9
        report(f"{node}: hashing {len(unproven)} existing files ({size:.1f} GB)")
        hashes = await _verify(agents, node, unproven, proven)
        for name in sorted(unproven.keys() - hashes.keys()):
            report(f"{node}: {name} is damaged or of another version (hash differs)")
        complete |= hashes.keys()
    return frozenset(complete)


async def find_storages(agents: Agents, expected: ExpectedFiles, lacking: Sequence[str]) -> dict[str, str]:
    """Which of the `lacking` nodes share storage: node -> the node that writes there.

    Each node creates a marker file next to the folder and lists all markers: nodes that see each other's share storage.

    Raises:
        WeightsError: some node cannot write, and no other node writes to its storage.
    """
    marks = {node: uuid.uuid4().hex for node in lacking}
    refusals: dict[str, WeightsError] = {}
    for node in lacking:
        try:
            await agents.call(node, "prepare", expected.key, marks[node])
        except WeightsError as error:
            refusals[node] = error
    try:
        seen = {node: await agents.call(node, "read_probes") for node in lacking}
    finally:
        for node in lacking:
            if node not in refusals:
                await agents.call(node, "drop_probe", marks[node])
    writers: dict[str, str] = {}
    for node in lacking:
        sharers = [other for other in lacking if marks[other] in seen[node]]
        if not sharers:
            raise WeightsError(f"{node}: {refusals[node].what}", fix=refusals[node].fix)
        writers[node] = sharers[0]
    return writers


def check_room(
    expected: ExpectedFiles, states: Mapping[str, StoreState], node_files: Mapping[str, NodeFiles], folder: Path
) -> None:
    """Check that every node has the disk space for the files it lacks.

    Raises:
        WeightsError: some nodes do not; names each.
    """
    short = []
    for node, present in node_files.items():
        missing, free = measure_missing(expected.sizes, present), states[node].free_bytes
        if missing > free:
            short.append(
                f"{node} needs {missing / 1e9:.1f} GB more in {folder.parent}, and {free / 1e9:.1f} GB are free"
            )
    if short:
        raise WeightsError(
            f"{expected.listing.repo}: " + "; ".join(short),
            fix="free disk space there, or set another model.path (RAYLAUNCH_HOME if it is not set)",
        )
