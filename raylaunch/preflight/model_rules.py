"""Rules for the model's folder: at the same path on every node, complete, and equal everywhere."""

import shlex
from collections.abc import Iterator, Sequence

from raylaunch.node.facts import NodeFacts
from raylaunch.node.model_folder import FolderFacts, ProblemKind
from raylaunch.preflight.findings import Finding
from raylaunch.preflight.machine_rules import choose_reference
from raylaunch.preflight.requirements import CheckRequest

_NAMED_AT_MOST = 3


def judge_model(facts: Sequence[NodeFacts], request: CheckRequest) -> Iterator[Finding]:
    """Findings on the model's folder, for each node."""
    complete = [node for node in facts if not list(_list_problems(node.model, request))]
    source = next(iter(complete), None)
    for node in facts:
        yield from _judge_folder(node, request, source)
    if len(complete) > 1:
        yield from _compare_folders(complete, request)
        yield from _compare_commits(complete, request)


def judge_companions(facts: Sequence[NodeFacts], request: CheckRequest) -> Iterator[Finding]:
    """Findings on draft model, tokenizer and LoRA adapters, for each node.

    Where no node has the folder, the Hugging Face cache of every node will do: vLLM gets the id then.
    """
    for companion in request.companions:
        seen = [(node, found) for node in facts for found in node.companions if found.companion == companion]
        if seen and all(found.in_hub_cache for _, found in seen):
            continue
        for node, found in seen:
            if found.problem:
                path = shlex.quote(f"{companion.folder}/")
                fix = f"copy it there from a node that has it: rsync -a NODE:{path} {path}; or correct {companion.key}"
                what = f"{companion.kind}{f' {companion.repo}' if companion.repo else ''}"
                yield Finding(
                    node.node_ip,
                    f"{companion.key} ({what}): {found.problem}",
                    request.pull_command if companion.repo else fix,
                )


def _list_problems(model: FolderFacts, request: CheckRequest) -> Iterator[tuple[str, frozenset[str]]]:
    """Sentences, each with the kinds of problems in it (ProblemKind)."""
    if not model.exists:
        yield f"{model.path} does not exist", frozenset({ProblemKind.MISSING})
        return
    if model.error:
        yield f"{model.path} {model.error}", frozenset({model.error.kind})
        return
    broken = [problem for problem in model.broken if request.needs_weights or problem.name == "config.json"]
    if broken:
        yield f"{model.path}: {_join([str(problem) for problem in broken])}", frozenset(b.kind for b in broken)
    if request.needs_weights and not model.has_weights and not broken:
        what = f"has no weights that load_format {request.load_format} loads"
        yield f"{model.path} {what}", frozenset({ProblemKind.MISSING})
    if request.needs_tokenizer and not model.has_tokenizer:
        yield f"{model.path} has no tokenizer (no vocabulary file)", frozenset({ProblemKind.MISSING})


def _judge_folder(node: NodeFacts, request: CheckRequest, source: NodeFacts | None) -> Iterator[Finding]:
    for problem, kinds in _list_problems(node.model, request):
        path = shlex.quote(node.model.path)
        if ProblemKind.DENIED in kinds:
            fix = f"on {node.node_ip}: chmod -R a+rX {path}"
        elif ProblemKind.LFS_POINTER in kinds:
            fix = f"on {node.node_ip}: git -C {path} lfs pull"
        else:
            fix = _make_fetch_command(node, request, source)
        yield Finding(node.node_ip, f"model folder {problem}", fix)


def _make_fetch_command(node: NodeFacts, request: CheckRequest, source: NodeFacts | None) -> str:
    """How to get the model onto `node`: from a node that has it completely, else from the hub."""
    if not request.repo:
        there = source.node_ip if source and source.node_ip != node.node_ip else "NODE"
        copy = _make_copy_command(there, node.model.path)
        return f"on {node.node_ip}: {copy} (the launch has no model.repo to fetch)"
    if source is not None and source.node_ip != node.node_ip:
        return f"{request.pull_command} (it comes from {source.node_ip})"
    return f"{request.pull_command} (once from the hub, then from node to node)"


def _make_copy_command(source: str, folder: str, *options: str) -> str:
    """rsync's command for a folder of another node; -s keeps a remote shell from splitting the path (before 3.2.4)."""
    path = f"{folder.rstrip('/')}/"
    return shlex.join(["rsync", "-a", "-s", *options, f"{source}:{path}", path])


def _compare_folders(complete: Sequence[NodeFacts], request: CheckRequest) -> Iterator[Finding]:
    """Complete folders with different files."""
    signatures = [repr(sorted((file.name, file.size, file.sha256) for file in node.model.files)) for node in complete]
    reference_signature = choose_reference(signatures)
    reference = complete[signatures.index(reference_signature)]
    for node, signature in zip(complete, signatures, strict=True):
        if signature != reference_signature and (differences := _list_differences(node.model, reference.model)):
            yield Finding(
                node.node_ip,
                f"model folder {request.model_folder} differs from that of {reference.node_ip}: {_join(differences)}",
                f"on {node.node_ip}: {_make_copy_command(reference.node_ip, request.model_folder, '--delete')}",
            )


def _compare_commits(complete: Sequence[NodeFacts], request: CheckRequest) -> Iterator[Finding]:
    """Folders whose manifests have different commits: files of equal names and sizes may have other weights."""
    known = [node for node in complete if node.model.commit]
    reference = choose_reference([node.model.commit or "" for node in known]) if known else ""
    for node in known:
        if node.model.commit != reference:
            yield Finding(
                node.node_ip,
                f"model folder {request.model_folder} has commit {node.model.commit}, others {reference}",
                f"{request.pull_command} --verify, with model.revision set to the wanted one",
            )


def _list_differences(model: FolderFacts, reference: FolderFacts) -> list[str]:
    mine = {file.name: file for file in model.files}
    theirs = {file.name: file for file in reference.files}
    found = []
    for name in sorted(mine.keys() | theirs.keys()):
        here, there = mine.get(name), theirs.get(name)
        if here is None:
            found.append(f"{name} is missing")
        elif there is None:
            found.append(f"{name} is only here")
        elif here.size != there.size:
            found.append(f"{name} has {here.size:,} bytes, not {there.size:,}")
        elif here.sha256 != there.sha256:
            found.append(f"{name} has other content")
    return found


def _join(sentences: Sequence[str]) -> str:
    rest = len(sentences) - _NAMED_AT_MOST
    return "; ".join(sentences[:_NAMED_AT_MOST]) + (f"; and {rest} more" if rest > 0 else "")
