"""The end of a pull: the manifest, and the files in their place on every node."""

import asyncio
import time
from collections.abc import Mapping

from raylaunch.base.errors import WeightsError
from raylaunch.node.manifest import FileFacts, Manifest
from raylaunch.weights.agents import Agents, run_all
from raylaunch.weights.inventory import ExpectedFiles

_SEEN_LATE_S = 60.0
"""Longest time until a node sees what another wrote into their storage: NFS keeps attributes for 30 s and more."""


async def write_manifest(
    agents: Agents, expected: ExpectedFiles, holder: str, proven: Mapping[tuple[str, str], str]
) -> Manifest:
    """What to leave in every folder: SHA-256 of all files, also of those of which the hub told git's hash alone.

    Args:
        holder: a node that has every file.
        proven: (node, file) -> SHA-256 of files that this pull saw whole.
    """
    known = {name: sha256 for (_, name), sha256 in proven.items()}
    known |= {name: facts.sha256 for name, facts in expected.facts.items() if facts.sha256}
    known |= {name: file.sha256 for name, file in expected.listing.files.items() if file.sha256}
    unknown = {name: file for name, file in expected.listing.files.items() if name not in known}
    known |= await agents.call(holder, "verify", unknown) if unknown else {}
    expected.facts = {name: FileFacts(file.size, known.get(name)) for name, file in expected.listing.files.items()}
    return expected.to_manifest()


async def install_everywhere(agents: Agents, manifest: Manifest, writers: Mapping[str, str]) -> None:
    """Give every node's files their place, leave the same manifest everywhere, and look at it once more.

    Args:
        writers: node -> the node that writes in its storage, itself where it shares none.

    Raises:
        WeightsError: a node refuses, or does not see what was put there.
    """

    async def put(node: str) -> None:
        await agents.call(node, "finish", manifest)
        await agents.call(node, "unlock")

    async def verify_written(node: str, writer: str) -> None:
        if differences := await _compare(agents, node, manifest, timeout_s=0.0 if node == writer else _SEEN_LATE_S):
            told = next(iter(differences.values()))
            raise WeightsError(f"{node}: {told}, though it was just put there", fix="run it again")

    await run_all(put(node) for node, writer in writers.items() if node == writer)
    await run_all(verify_written(node, writer) for node, writer in writers.items())


async def _compare(agents: Agents, node: str, manifest: Manifest, *, timeout_s: float) -> dict[str, str]:
    until = time.monotonic() + timeout_s
    while True:
        differences: dict[str, str] = await agents.call(node, "compare", manifest.files, fast=True)
        if not differences or time.monotonic() >= until:
            return differences
        await asyncio.sleep(1.0)
