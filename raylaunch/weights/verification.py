"""Check every file on every node against the manifest, without the hub; remove a model."""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from raylaunch.base.errors import WeightsError
from raylaunch.node.loader_files import DEFAULT_FORMAT
from raylaunch.node.manifest import FileFacts, Manifest
from raylaunch.weights.agents import Agents
from raylaunch.weights.store import StoreState


@dataclass(frozen=True)
class CheckResult:
    """The result of a check."""

    repo: str
    folder: str
    source: str
    commit: str | None
    fast: bool
    files: int
    total_bytes: int
    """Of the model, on each node."""
    problems: Mapping[str, tuple[str, ...]]
    """Node -> one sentence for each file that differs from the manifest."""
    seconds: float

    @property
    def is_complete(self) -> bool:
        """Whether no node has a problem."""
        return not any(self.problems.values())


async def check(
    repo: str | None,
    revision: str | None,
    folder: Path,
    agents: Agents,
    *,
    fast: bool,
    load_format: str = DEFAULT_FORMAT,
    pull_command: str = "raylaunch weights pull LAUNCH.yaml",
) -> CheckResult:
    """Compare the model's folder on all nodes with the manifest that most of them have.

    Args:
        repo: None accepts that of the manifest.
        fast: sizes and sampled blocks; else every byte.
        load_format: the launch's engine.load_format.
        pull_command: what fetches the model, as the user types it.

    Returns:
        The result. Without a manifest, folders that are read-only or of no repo pass if complete by their own index.

    Raises:
        WeightsError: no node has a manifest, though one can be written, or there are no files at all.
    """
    began = time.monotonic()
    nodes = agents.refresh()
    states = dict(zip(nodes, await asyncio.gather(*(agents.call(node, "inspect") for node in nodes)), strict=True))
    known = [seen.manifest for seen in states.values() if seen.manifest]
    if known:
        texts = [repr(manifest) for manifest in known]
        manifest = known[texts.index(Counter(texts).most_common(1)[0][0])]
        compared = await asyncio.gather(*(agents.call(node, "compare", manifest.files, fast=fast) for node in nodes))
        problems = {
            node: _list_problems(seen, differences, manifest, folder, repo, revision)
            for (node, seen), differences in zip(states.items(), compared, strict=True)
        }
    else:
        _need_own_index(states, repo, folder, pull_command)
        files = {name: FileFacts(size) for name, size in max((seen.files for seen in states.values()), key=len).items()}
        source, fast = "its own index, for it has no manifest", True
        manifest = Manifest(repo or str(folder), revision, source, files)
        problems = {node: await agents.call(node, "find_problems", load_format) for node in states}
    return CheckResult(
        repo=manifest.repo,
        folder=str(folder),
        source=manifest.source,
        commit=manifest.commit,
        fast=fast,
        files=len(manifest.files),
        total_bytes=sum(facts.size for facts in manifest.files.values()),
        problems=problems,
        seconds=time.monotonic() - began,
    )


def _need_own_index(states: Mapping[str, StoreState], repo: str | None, folder: Path, pull_command: str) -> None:
    """Raise WeightsError where folders without a manifest cannot be checked by their own index either."""
    if unusable := [f"{node}: {seen.problem}" for node, seen in states.items() if seen.problem]:
        raise WeightsError("; ".join(unusable), fix=next(seen.fix for seen in states.values() if seen.problem))
    if repo is None and not any(seen.files for seen in states.values()):
        raise WeightsError(f"{folder} holds no model", fix="copy one there, or set model.repo to fetch it")
    if repo is not None and any(seen.is_writable or not seen.files for seen in states.values()):
        where = "this machine" if len(states) == 1 else "any node"
        raise WeightsError(
            f"no manifest in {folder} on {where}: nothing to check against",
            fix=f"`{pull_command}` writes one, and does not fetch existing files again",
        )


def _list_problems(
    seen: StoreState,
    differences: Mapping[str, str],
    manifest: Manifest,
    folder: Path,
    repo: str | None,
    revision: str | None,
) -> tuple[str, ...]:
    """One node's problems, by the manifest that most nodes have."""
    own = [f"{folder}: {seen.problem}"] if seen.problem else list(differences.values())
    if not own and seen.manifest != manifest and (seen.manifest or seen.is_writable):  # else none can be written
        own = ["its manifest is missing or differs"]
    if not manifest.is_of(repo, revision):
        wanted = f"{repo} at {revision or 'main'}"
        own.insert(0, f"holds {manifest.repo} at {manifest.revision or 'main'}, not {wanted}")
    return tuple(own)


async def remove(agents: Agents) -> dict[str, list[str]]:
    """Remove the model from all nodes; node -> sentences on files that were kept.

    Raises:
        WeightsError: a folder has no manifest, or cannot be removed. The other nodes are done then.
    """
    kept: dict[str, list[str]] = {}
    failures: dict[str, WeightsError] = {}
    for node in (nodes := agents.refresh()):  # sequentially: nodes may share the storage
        try:
            kept[node] = await agents.call(node, "remove")
        except WeightsError as error:
            failures[node] = error
    if failures:
        what = [f"{node}: {error.what}" for node, error in failures.items()]
        what += [f"removed from {', '.join(kept)}"] if kept else []
        fix = next(iter(failures.values())).fix
        raise WeightsError("; ".join(what), fix=f"on {', '.join(failures)}: {fix}" if len(nodes) > 1 else fix)
    return kept
