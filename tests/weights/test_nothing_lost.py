"""Whatever folders, manifests and verbs: no file is lost that no pull brought. Real files, real client, real HTTP."""

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from pickle import PickleBuffer
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raylaunch.base.errors import WeightsError
from raylaunch.node.manifest import MANIFEST, FileFacts, Manifest
from raylaunch.weights.expected_files import PullRequest
from raylaunch.weights.hub_types import HubAccess
from raylaunch.weights.node_agent import NodeAgent
from raylaunch.weights.own_files import OwnFilesChoice
from raylaunch.weights.pull import pull
from raylaunch.weights.verification import check, remove
from tests.hub_server import Hub, serve

from .conftest import REPO, Silent, make_safetensors

NOWHERE = "http://127.0.0.1:9"
MODULES_JSON = json.dumps(
    [{"path": "", "type": "m.Transformer"}]
    + [{"path": path, "type": f"m.{path[2:]}"} for path in ("1_Pooling", "2_Dense")]
).encode()
REPO_FILES = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b"{}",
    "model.safetensors": make_safetensors(1024),
    "README.md": b"# left out",
    "modules.json": MODULES_JSON,
    "1_Pooling/config.json": b'{"pooling_mode_cls_token": true}',
    "2_Dense/config.json": b"{}",
    "2_Dense/model.safetensors": make_safetensors(1024),
}
TUNED = {
    "config.json": b'{"model_type": "mixtr"}',
    "tokenizer.json": b'{"chat": 1}',
    "model.safetensors": make_safetensors(1024),
    "README.md": b"# mine",
    "1_Pooling/config.json": b'{"pooling_mode_cls_token": fals}',
}
OTHER_NAMES = ("notes.md", "pytorch_model.bin", "adapter/model.safetensors", "config.json.part", f"{MANIFEST}.part")
OTHER_NAMES += ("1_Pooling", "1_Pooling/notes.md", "1_Pooling/config.json.part", "2_Dense/model.safetensors/x")


class TwoNodes:
    """Two nodes in this process, each with a folder of its own; chunks go from one to the other by call."""

    lanes = 1

    def __init__(self, folders: Sequence[Path]) -> None:
        self._agents = {f"node{number}": NodeAgent(str(folder)) for number, folder in enumerate(folders)}

    def refresh(self) -> tuple[str, ...]:
        return tuple(self._agents)

    async def end(self) -> None:
        """Release the locks, as the end of the process does."""
        for agent in self._agents.values():
            await agent.unlock()

    def has_changed(self) -> bool:
        return False

    async def call(self, node: str, method: str, *arguments: Any, lane: int = 0, **named: Any) -> Any:
        return await getattr(self._agents[node], method)(*arguments, **named)

    def find_handle(self, node: str, lane: int) -> Any:
        agent = self._agents[node]

        def remote(name: str, offset: int, data: PickleBuffer) -> Any:
            return agent.hop(name, offset, data.raw())

        return SimpleNamespace(hop=SimpleNamespace(remote=remote))


@dataclass
class Place:
    """One node's storage: the model's folder, and what the user has in and beside it."""

    root: Path
    own: dict[Path, tuple[str, bytes]] = field(default_factory=dict)
    """Path -> kind and content of what no pull brought."""

    @property
    def folder(self) -> Path:
        return self.root / "model"

    def put(self, path: Path, body: bytes, *, as_link: bool = False) -> None:
        """The user writes a file, or a link to one elsewhere."""
        path = path.parent.resolve() / path.name
        with contextlib.suppress(OSError):  # a folder is there, or a file where a folder should be
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_file() and not path.is_symlink() and path.read_bytes() == body and path not in self.own:
                return  # equal to what the pull wrote
            if path.is_symlink() or path.is_file():
                path.unlink()
            if as_link:
                target = self.root / "blobs" / hashlib.sha256(body).hexdigest()
                target.parent.mkdir(exist_ok=True)
                target.write_bytes(body)
                path.symlink_to(target)
                self.own[target] = read_entry(target)
            else:
                path.write_bytes(body)
            self.own[path] = read_entry(path)

    def put_folder_link(self, path: Path) -> None:
        """The user has a link to a folder of theirs, which has the module's file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(self.root / "elsewhere")
        self.own[path] = read_entry(path)
        self.put(self.root / "elsewhere" / "config.json", REPO_FILES["1_Pooling/config.json"])

    def delete(self, path: Path) -> None:
        """The user removes a file."""
        path = path.parent.resolve() / path.name
        if path.is_file() or path.is_symlink():
            path.unlink()
            self.own.pop(path, None)

    def assert_kept(self, *, may_move: bool) -> None:
        """Everything of the user is where it was; after --replace it may be in the folder that is named for it."""
        for path, entry in list(self.own.items()):
            found = path
            if not os.path.lexists(path) or read_entry(path) != entry:
                places = list(path.parent.glob(f"{MANIFEST}.old*")) if path.name == MANIFEST else []
                if may_move and self.folder in path.parents:
                    kept = self.root.glob("model.replaced-*")
                    places += [folder / path.relative_to(self.folder) for folder in kept]
                free = [place for place in places if place not in self.own and os.path.lexists(place)]
                found = next((place for place in free if read_entry(place) == entry), path)
                del self.own[path]
                self.own[found] = entry
            assert os.path.lexists(found), f"{path} is gone"
            assert read_entry(found) == entry, f"{path} was changed"


def read_entry(path: Path) -> tuple[str, bytes]:
    """A link with its target, a file with its content, or a folder in place of one."""
    if path.is_dir() and not path.is_symlink():
        return "folder", b""
    return ("link", os.fsencode(path.readlink())) if path.is_symlink() else ("file", path.read_bytes())


BODIES = st.sampled_from(["hub", "tuned", "cut", "empty"])
NAMES = st.sampled_from([*REPO_FILES, *OTHER_NAMES])
FILES = st.dictionaries(NAMES, st.tuples(BODIES, st.booleans()), max_size=6)
BESIDE = st.sampled_from(
    [
        "model.download/config.json",
        "model.download/1_Pooling/config.json",
        "model.download/x.part",
        "model.lock",
        "model.replaced-1/a",
    ]
)
FETCHED = st.sampled_from([True, False, None])
MANIFESTS = st.none() | st.dictionaries(st.sampled_from([*REPO_FILES]), st.tuples(BODIES, FETCHED)) | st.just("broken")
LINKED = st.sampled_from([None, None, None, "1_Pooling", "2_Dense"])
NODES = st.tuples(FILES, MANIFESTS, st.lists(BESIDE, max_size=1), LINKED)
PULLS = st.tuples(st.just("pull"), st.sampled_from(OwnFilesChoice), st.booleans(), st.sampled_from([True, True, False]))
EDITS = st.tuples(st.just("edit"), st.integers(0, 1), NAMES, BODIES | st.none())
STEPS = st.lists(PULLS | EDITS | st.just(("rm",)) | st.just(("check",)), min_size=1, max_size=4)


def make_body(name: str, kind: str) -> bytes:
    body = REPO_FILES.get(name, name.encode())
    return {"hub": body, "tuned": TUNED.get(name, b"tuned"), "cut": body[:-1], "empty": b""}[kind]


def lay(place: Place, node: tuple[Any, Any, Any, Any]) -> None:
    """A node's start: files and links of the user, a manifest that may claim some of them, files beside the folder."""
    files, manifest, beside, linked = node
    if linked:
        place.put_folder_link(place.folder / linked)
    for name, (kind, as_link) in files.items():
        place.put(place.folder / name, make_body(name, kind), as_link=as_link)
    for name in beside:
        place.put(place.root / name, b"mine")
    if manifest == "broken":
        place.put(place.folder / MANIFEST, b"{")
    elif manifest is not None:
        place.folder.mkdir(parents=True, exist_ok=True)
        facts = {}
        for name, (kind, fetched) in manifest.items():
            body = make_body(name, kind)
            sha256 = hashlib.sha256(body).hexdigest()
            facts[name] = FileFacts(len(body), sha256, fetched=bool(fetched))
            if fetched and place.own.get(place.folder / name) == ("file", body):
                del place.own[place.folder / name]  # as a pull leaves it
        Manifest(REPO, None, "a hub", facts, "0" * 40).write(place.folder)
        if any(fetched is None for _, fetched in manifest.values()):  # of an older version
            text = json.loads((place.folder / MANIFEST).read_text())
            for name, (_, fetched) in manifest.items():
                if fetched is None:
                    del text["files"][name]["fetched"]
            (place.folder / MANIFEST).write_text(json.dumps(text))


def run_step(step: tuple[Any, ...], places: Sequence[Place], endpoint: str) -> None:
    """One verb over both nodes, as the command line calls it, or one edit of the user."""
    folders = [place.folder for place in places]
    if step[0] == "edit":
        _, number, name, kind = step
        path = places[number].folder / name
        if kind is None:
            places[number].delete(path)
            return
        body = make_body(name, kind)
        places[number].put(path, body)
        manifest = Manifest.read(folders[number])
        facts = manifest.files.get(name) if manifest else None
        if facts and facts.fetched and facts.sha256 == hashlib.sha256(body).hexdigest():
            places[number].own.pop(path, None)  # equal to what the pull wrote
        return
    agents = TwoNodes(folders)
    with contextlib.suppress(WeightsError):
        if step[0] == "pull":
            access = HubAccess(endpoint if step[3] else NOWHERE)
            request = PullRequest(REPO, None, folders[0], access, step[2], step[1])
            asyncio.run(pull(request, agents, Silent()))
        elif step[0] == "check":
            asyncio.run(check(REPO, None, folders[0], agents, fast=False))
        else:
            asyncio.run(remove(agents))
    asyncio.run(agents.end())


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with serve(Hub(REPO, REPO_FILES)) as running:
        yield running.url


@pytest.mark.parametrize("runs", [50, pytest.param(500, marks=[pytest.mark.slow, pytest.mark.no_cover])])
def test_no_file_of_the_user_is_lost(endpoint: str, runs: int) -> None:
    """After each verb all bytes that no pull brought are where they were, or where --replace says it moved them."""

    @settings(max_examples=runs, deadline=None, suppress_health_check=list(HealthCheck))
    @given(nodes=st.tuples(NODES, NODES), steps=STEPS)
    def lose_nothing(nodes: Any, steps: Any) -> None:
        try_steps(endpoint, nodes, steps)

    lose_nothing()


def try_steps(endpoint: str, nodes: Any, steps: Any) -> None:
    """Two nodes as described, then each step, after which everything of the user must be there."""
    root = Path(tempfile.mkdtemp(dir="/dev/shm"))
    try:
        places = [Place(root / f"n{number}") for number in range(2)]
        for place, node in zip(places, nodes, strict=True):
            place.root.mkdir()
            lay(place, node)
        for step in steps:
            run_step(step, places, endpoint)
            for place in places:
                place.assert_kept(may_move=step[0] == "pull" and step[1] is OwnFilesChoice.REPLACE)
    finally:
        shutil.rmtree(root)
