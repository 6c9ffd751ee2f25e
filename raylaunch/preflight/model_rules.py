"""The verdict on the model's folder: at the same path on every node, whole, and the same everywhere."""

from collections.abc import Iterator, Sequence

from raylaunch.node.facts import NodeFacts
from raylaunch.node.model_folder import FolderFacts
from raylaunch.preflight.findings import Finding
from raylaunch.preflight.machine_rules import choose_reference
from raylaunch.preflight.requirements import CheckRequest

_NAMED_AT_MOST = 3


def judge_model(facts: Sequence[NodeFacts], request: CheckRequest) -> Iterator[Finding]:
    """Findings on the model's folder, for each node."""
    whole = [node for node in facts if _is_whole(node.model, request)]
    source = next((node for node in facts if node in whole), None)
    for node in facts:
        yield from _judge_folder(node, request, source)
    if len(whole) > 1:
        yield from _compare_folders(whole, request)
        yield from _compare_commits(whole, request)


def _is_whole(model: FolderFacts, request: CheckRequest) -> bool:
    return not list(_list_problems(model, request))


def _list_problems(model: FolderFacts, request: CheckRequest) -> Iterator[str]:
    if not model.exists:
        yield f"{model.path} is not there"
        return
    if model.error:
        yield f"{model.path} {model.error}"
        return
    broken = [b for b in model.broken if request.needs_weights or b.startswith("config.json")]
    if broken:
        yield f"{model.path}: {_join(broken)}"
    if request.needs_weights and not model.has_weights and not broken:
        yield f"{model.path} holds no weights (.safetensors)"
    if request.needs_tokenizer and not model.has_tokenizer:
        yield f"{model.path} holds no tokenizer (tokenizer.json or tokenizer.model)"


def _judge_folder(node: NodeFacts, request: CheckRequest, source: NodeFacts | None) -> Iterator[Finding]:
    for problem in _list_problems(node.model, request):
        if "cannot be read" in problem and "Permission denied" in problem:
            fix = f"on {node.node_ip}: chmod -R a+rX {node.model.path}"
        else:
            fix = make_fetch_command(node, request, source)
        yield Finding(node.node_ip, f"model folder {problem}", fix)


def make_fetch_command(node: NodeFacts, request: CheckRequest, source: NodeFacts | None) -> str:
    """How to get the model onto `node`: from a node that has it whole, else from the hub."""
    if source is not None and source.node_ip != node.node_ip:
        return f"{request.pull_command} (it comes from {source.node_ip})"
    return f"{request.pull_command} (once from the hub, then from node to node)"


def _compare_folders(whole: Sequence[NodeFacts], request: CheckRequest) -> Iterator[Finding]:
    """Folders that are whole by themselves, but not of one kind."""
    signatures = [repr(sorted((file.name, file.size, file.sha256) for file in node.model.files)) for node in whole]
    reference_signature = choose_reference(signatures)
    reference = whole[signatures.index(reference_signature)]
    for node, signature in zip(whole, signatures, strict=True):
        if signature != reference_signature and (differences := _list_differences(node.model, reference.model)):
            path = request.model_folder.rstrip("/")
            yield Finding(
                node.node_ip,
                f"model folder {path} is not that of {reference.node_ip}: {_join(differences)}",
                f"on {node.node_ip}: rsync -a --delete {reference.node_ip}:{path}/ {path}/",
            )


def _compare_commits(whole: Sequence[NodeFacts], request: CheckRequest) -> Iterator[Finding]:
    """Folders whose manifests tell of different commits: files of the same names and sizes may hold other weights."""
    told = [node for node in whole if node.model.commit]
    reference = choose_reference([node.model.commit or "" for node in told]) if told else ""
    for node in told:
        if node.model.commit != reference:
            yield Finding(
                node.node_ip,
                f"model folder {request.model_folder} holds commit {node.model.commit}, others {reference}",
                f"{request.pull_command} --verify, with model.revision set to the one that is wanted",
            )


def _list_differences(model: FolderFacts, reference: FolderFacts) -> list[str]:
    mine = {file.name: file for file in model.files}
    theirs = {file.name: file for file in reference.files}
    told = []
    for name in sorted(mine.keys() | theirs.keys()):
        here, there = mine.get(name), theirs.get(name)
        if here is None:
            told.append(f"{name} is missing")
        elif there is None:
            told.append(f"{name} is only here")
        elif here.size != there.size:
            told.append(f"{name} has {here.size:,} bytes, not {there.size:,}")
        elif here.sha256 != there.sha256:
            told.append(f"{name} has other content")
    return told


def _join(sentences: Sequence[str]) -> str:
    rest = len(sentences) - _NAMED_AT_MOST
    return "; ".join(sentences[:_NAMED_AT_MOST]) + (f"; and {rest} more" if rest > 0 else "")
