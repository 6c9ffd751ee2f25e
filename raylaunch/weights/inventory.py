"""Before a transfer: what each node has, which files there are the user's, and which nodes share storage."""

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from raylaunch.base.errors import WeightsError
from raylaunch.node.loader_files import is_weights
from raylaunch.weights.agents import Agents
from raylaunch.weights.expected_files import (
    ExpectedFiles,
    Proven,
    PullRequest,
    Report,
    hash_unread,
    reach_everywhere,
)
from raylaunch.weights.own_files import OwnFile
from raylaunch.weights.store import StoreState
from raylaunch.weights.transfer_plan import NodeFiles, measure_missing


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


async def list_changed(agents: Agents, states: Mapping[str, StoreState], nodes: Sequence[str]) -> list[str]:
    """Which of these nodes' files changed since `states`: another pull can end before this one has its lock."""
    again = await inspect_all(agents, nodes)
    return [node for node in nodes if again[node].contents != states[node].contents]


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
        reached = [reason is None for reason in await reach_everywhere(agents, request, states)]
    return {
        node: NodeFiles(
            complete,
            {name: seen.parts[name] for name in expected.sizes if name in seen.parts and name not in complete},
            reaches_hub=reaches,
        )
        for (node, seen), complete, reaches in zip(states.items(), found, reached, strict=True)
    }


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
        hashes = await hash_unread(agents, node, unproven, proven)
        for name in sorted(unproven.keys() - hashes.keys()):
            report(f"{node}: {name} is damaged or of another version (hash differs)")
        complete |= hashes.keys()
    return frozenset(complete)


async def find_own_files(
    agents: Agents, expected: ExpectedFiles, states: Mapping[str, StoreState], node_files: Mapping[str, NodeFiles]
) -> dict[str, tuple[OwnFile, ...]]:
    """Files of the user where those belong that a node lacks; and, without a manifest, weights that the repo lacks."""
    found: dict[str, tuple[OwnFile, ...]] = {}
    known = expected.sizes | dict(expected.listing.left_out)
    for node, present in node_files.items():
        lacking, seen = expected.sizes.keys() - present.complete, states[node]
        strange = {name for name in seen.files if is_weights(name) and name not in known and "/" not in name}
        asked = lacking | (strange if lacking and not seen.manifest else set())
        if asked and (own := await agents.call(node, "list_own", sorted(asked))):
            found[node] = tuple(replace(file, wanted=expected.sizes.get(file.name)) for file in own)
    return found


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
            await agents.call(node, "prepare", expected.key, sorted(expected.sizes), marks[node])
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
