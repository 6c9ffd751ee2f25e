"""Which files the model consists of: by a manifest, by the hub, or by a folder that was filled by hand."""

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from raylaunch.base.errors import WeightsError
from raylaunch.node.loader_files import DEFAULT_FORMAT, ModuleFolder, find_weights
from raylaunch.node.manifest import FileFacts, Manifest
from raylaunch.weights.agents import Agents
from raylaunch.weights.hub import choose_files
from raylaunch.weights.hub_types import HubAccess, Listing, RepoFile
from raylaunch.weights.own_files import OwnFilesChoice
from raylaunch.weights.store import StoreState

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
    own_files: OwnFilesChoice = OwnFilesChoice.ASK
    load_format: str = DEFAULT_FORMAT
    """The launch's engine.load_format: which weights are fetched."""
    command: str = "raylaunch weights pull"
    """The command of this pull, for messages."""


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


def manifest_suits(manifest: Manifest, load_format: str, modules: Collection[ModuleFolder] = ()) -> bool:
    """Whether a pull for this load format left the manifest, so that it lists the weights that vLLM loads.

    Older versions left out the folders that modules.json names.
    """
    if any("/" in name for name in choose_files(manifest.left_out, load_format, modules)):
        return False
    return load_format == "dummy" or bool(find_weights(manifest.files, load_format))


async def find_expected(
    agents: Agents, request: PullRequest, states: Mapping[str, StoreState], proven: Proven, report: Report
) -> ExpectedFiles:
    """The expected files: from a node's manifest, else from the hub, else from a folder that was filled by hand.

    Raises:
        WeightsError: none of them is available.
    """
    if request.own_files is OwnFilesChoice.ADOPT:
        return await _adopt_any(agents, request, states, proven, report)
    known = [(seen.manifest, seen.modules) for seen in states.values() if seen.manifest]
    asked = [
        manifest
        for manifest, modules in known
        if manifest.is_of(request.repo, request.revision)
        and (not manifest.commit or manifest_suits(manifest, request.load_format, modules))
    ]
    if asked:
        texts = [repr(manifest.files) for manifest in asked]
        common = Counter(texts).most_common(1)[0][0]
        return ExpectedFiles.of_manifest(asked[texts.index(common)], request.access)
    reasons = await reach_everywhere(agents, request, states)
    for node, reason in zip(states, reasons, strict=True):
        if reason is None:
            asked_for = (request.repo, request.revision, request.access, request.load_format)
            listing: Listing = await agents.call(node, "list_repo", *asked_for)
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


async def _adopt_any(
    agents: Agents, request: PullRequest, states: Mapping[str, StoreState], proven: Proven, report: Report
) -> ExpectedFiles:
    """The files of the first complete folder; those without a manifest, or that differ from theirs, have precedence."""
    problems: dict[str, Sequence[str]] = {}
    differ = {
        node: not seen.manifest or bool(await agents.call(node, "compare", seen.manifest.files, fast=True))
        for node, seen in states.items()
        if seen.files
    }
    for node in sorted(differ, key=lambda node: not differ[node]):
        problems[node] = await agents.call(node, "find_problems", request.load_format, by_manifest=False)
        if (expected := await _adopt(agents, request, node, states[node], proven)) is not None:
            report(f"{node}: taking {request.folder} as it is as {request.repo}")
            return expected
    why = "; ".join(f"{node}: {', '.join(found[:3])}" for node, found in problems.items()) or "it has no files"
    raise WeightsError(
        f"{request.folder} is not a complete model ({why})",
        fix=f"complete it by hand; or `{request.command} --replace` moves what differs from {request.repo} aside",
    )


async def _adopt(
    agents: Agents, request: PullRequest, node: str, seen: StoreState, proven: Proven
) -> ExpectedFiles | None:
    """The files of a folder that was filled by hand; None if it is not a complete model."""
    by_manifest = request.own_files is not OwnFilesChoice.ADOPT
    if not seen.files or await agents.call(node, "find_problems", request.load_format, by_manifest=by_manifest):
        return None
    wanted = {name: RepoFile(seen.files[name]) for name in choose_files(seen.files, request.load_format, seen.modules)}
    hashes = await hash_unread(agents, node, wanted, proven)
    files = {name: RepoFile(file.size, hashes[name]) for name, file in wanted.items() if name in hashes}
    listing = Listing(request.repo, request.revision, "", request.access.endpoint, files, {})
    return ExpectedFiles(listing, f"{request.folder} on {node}, filled by hand")


async def hash_unread(agents: Agents, node: str, wanted: Mapping[str, RepoFile], proven: Proven) -> dict[str, str]:
    """Hash the files that were not hashed yet; name -> SHA-256 of those that match."""
    unread = {name: file for name, file in wanted.items() if (node, name) not in proven}
    hashes: dict[str, str] = await agents.call(node, "verify", unread) if unread else {}
    proven.update({(node, name): sha256 for name, sha256 in hashes.items()})
    return {name: proven[node, name] for name in wanted if (node, name) in proven}


async def reach_everywhere(agents: Agents, request: PullRequest, nodes: Iterable[str]) -> list[str | None]:
    """Why each node cannot reach the hub; None if it can."""
    return list(await asyncio.gather(*(agents.call(node, "reach", request.access) for node in nodes)))
