"""The last step of a pull: build the manifest and move the files into the folder on every node."""

import asyncio
import time
from collections.abc import Mapping

from raylaunch.base.errors import WeightsError
from raylaunch.node.manifest import FileFacts, Manifest
from raylaunch.weights.agents import Agents, naming, run_all
from raylaunch.weights.expected_files import ExpectedFiles

_SEEN_LATE_S = 60.0
"""Longest time until a node sees a write of another node in shared storage: NFS caches attributes for 30 s or more."""


async def write_manifest(
    agents: Agents, expected: ExpectedFiles, holder: str, proven: Mapping[tuple[str, str], str]
) -> Manifest:
    """The manifest for every folder, with the SHA-256 of all files; the hub lists some by their git hash only.

    Args:
        holder: a node that has every file.
        proven: (node, file) -> SHA-256 of files that this pull read completely.
    """
    known = {name: sha256 for (_, name), sha256 in proven.items()}
    known |= {name: facts.sha256 for name, facts in expected.facts.items() if facts.sha256}
    known |= {name: file.sha256 for name, file in expected.listing.files.items() if file.sha256}
    unknown = {name: file for name, file in expected.listing.files.items() if name not in known}
    known |= await agents.call(holder, "verify", unknown) if unknown else {}
    expected.facts = {name: FileFacts(file.size, known.get(name)) for name, file in expected.listing.files.items()}
    return expected.to_manifest()


async def install_everywhere(agents: Agents, manifest: Manifest, writers: Mapping[str, str]) -> None:
    """Move the files into the folder on every node, write the same manifest, and check the result.

    Args:
        writers: node -> the node that writes to its storage; the node itself if it does not share it.

    Raises:
        WeightsError: a node cannot write, or does not see the files.
    """

    async def install(node: str) -> None:
        with naming(node):
            await agents.call(node, "finish", manifest)
        await agents.call(node, "unlock")

    async def verify_written(node: str, writer: str) -> None:
        if differences := await _compare(agents, node, manifest, timeout_s=0.0 if node == writer else _SEEN_LATE_S):
            difference = next(iter(differences.values()))
            raise WeightsError(f"{node}: {difference} right after the pull wrote it", fix="run the command again")

    await run_all(install(node) for node, writer in writers.items() if node == writer)
    await run_all(verify_written(node, writer) for node, writer in writers.items())


async def _compare(agents: Agents, node: str, manifest: Manifest, *, timeout_s: float) -> dict[str, str]:
    until = time.monotonic() + timeout_s
    while True:
        differences: dict[str, str] = await agents.call(node, "compare", manifest.files, fast=True)
        if not differences or time.monotonic() >= until:
            return differences
        await asyncio.sleep(1.0)
