"""A sentence-transformers model: files in the folders that modules.json names. Real client, real HTTP, real files."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from raylaunch.base.errors import WeightsError
from raylaunch.node.manifest import MANIFEST, Manifest, is_plain_path
from raylaunch.weights.agents import LocalAgents
from raylaunch.weights.expected_files import PullRequest
from raylaunch.weights.hub_types import HubAccess
from raylaunch.weights.own_files import OwnFilesChoice, OwnFilesError
from raylaunch.weights.pull import pull
from raylaunch.weights.verification import check, remove
from tests.hub_server import Hub, serve

from .conftest import REPO, Silent, make_safetensors, run_pull
from .test_nothing_lost import MODULES_JSON, TwoNodes

NOWHERE = "http://127.0.0.1:9"
POOLING = b'{"pooling_mode_cls_token": true}'
INSIDE = {
    "1_Pooling/config.json": POOLING,
    "2_Dense/config.json": b"{}",
    "2_Dense/model.safetensors": make_safetensors(1024),
}
TOP = {
    "config.json": b'{"model_type": "bert"}',
    "tokenizer.json": b"{}",
    "model.safetensors": make_safetensors(2048),
    "modules.json": MODULES_JSON,
    "sentence_bert_config.json": b'{"max_seq_length": 512}',
    "config_sentence_transformers.json": b"{}",
}
LEFT_OUT = {
    "README.md": b"#",
    "2_Dense/pytorch_model.bin": b"x" * 100,
    "onnx/config.json": b"{}",
    "onnx/model.onnx": b"x" * 100,
}


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve(Hub(REPO, TOP | INSIDE | LEFT_OUT)) as running:
        yield running


def read_all(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_modules_are_fetched_checked_and_removed(hub: Hub, folder: Path) -> None:
    """Also into a folder that exists, where only sub-folders that the pull made are removed."""
    run_pull(folder, hub.url)
    assert read_all(folder) == TOP | INSIDE
    assert asyncio.run(check(REPO, None, folder, LocalAgents(folder), fast=False)).is_complete
    (folder / "1_Pooling" / "config.json").write_bytes(b"{}")
    [problems] = asyncio.run(check(REPO, None, folder, LocalAgents(folder), fast=False)).problems.values()
    assert problems == (f"1_Pooling/config.json has 2 bytes of {len(POOLING)}",)
    (folder / "1_Pooling" / "config.json").write_bytes(POOLING)
    asyncio.run(remove(LocalAgents(folder)))
    assert not folder.exists()
    (folder / "2_Dense").mkdir(parents=True)
    run_pull(folder, hub.url)
    assert read_all(folder) == TOP | INSIDE
    asyncio.run(remove(LocalAgents(folder)))
    assert [path.name for path in folder.iterdir()] == ["2_Dense"]


def test_modules_go_from_node_to_node(hub: Hub, tmp_path: Path) -> None:
    """Each file leaves the hub once, though both nodes lack it."""
    folders = [tmp_path / name / "model" for name in ("a", "b")]
    request = PullRequest(REPO, None, folders[0], HubAccess(hub.url))
    asyncio.run(pull(request, TwoNodes(folders), Silent()))
    assert [read_all(folder) for folder in folders] == [TOP | INSIDE] * 2
    assert [len(hub.asked_for(name)) for name in INSIDE] == [1] * len(INSIDE)


def test_an_older_manifest_is_completed(hub: Hub, folder: Path) -> None:
    """A manifest of a version that left the folders out: incomplete without the hub, completed with it."""
    run_pull(folder, hub.url)
    manifest = Manifest.read(folder)
    assert manifest is not None
    for name in INSIDE:
        (folder / name).unlink()
    flat = {name: facts for name, facts in manifest.files.items() if "/" not in name}
    older = replace(manifest, files=flat, left_out={name: len(body) for name, body in (INSIDE | LEFT_OUT).items()})
    older.write(folder)
    with pytest.raises(WeightsError, match="is not on this machine"):
        run_pull(folder, NOWHERE)
    run_pull(folder, hub.url)
    assert read_all(folder) == TOP | INSIDE
    run_pull(folder, NOWHERE)


@pytest.mark.parametrize("kind", ["file", "link to a folder", "link to a file", "link in place of the folder's file"])
def test_what_stands_in_the_way_stays(hub: Hub, folder: Path, tmp_path: Path, kind: str) -> None:
    """It is a question; --replace moves it aside; nothing is written through a link."""
    folder.mkdir(parents=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "config.json").write_text("mine")
    place = folder / "1_Pooling"
    if kind == "file":
        place.write_text("mine")
    elif kind == "link to a folder":
        place.symlink_to(elsewhere)
    elif kind == "link to a file":
        place.symlink_to(elsewhere / "config.json")
    else:
        place.mkdir()
        place = place / "config.json"
        place.symlink_to(elsewhere / "config.json")
    with pytest.raises(OwnFilesError, match="1_Pooling"):
        run_pull(folder, hub.url)
    run_pull(folder, hub.url, OwnFilesChoice.REPLACE)
    assert read_all(folder) == TOP | INSIDE
    [kept] = folder.parent.glob(f"{folder.name}.replaced-*")
    moved = kept / place.relative_to(folder)
    assert moved.is_symlink() == (kind != "file")
    assert read_all(elsewhere) == {"config.json": b"mine"}


def test_rm_removes_nothing_through_a_link(hub: Hub, folder: Path, tmp_path: Path) -> None:
    """The fetched folder, moved elsewhere by the user with a link in its place."""
    run_pull(folder, hub.url)
    (folder / "1_Pooling").rename(tmp_path / "elsewhere")
    (folder / "1_Pooling").symlink_to(tmp_path / "elsewhere")
    asyncio.run(remove(LocalAgents(folder)))
    assert (tmp_path / "elsewhere" / "config.json").read_bytes() == POOLING
    assert [path.name for path in folder.iterdir()] == ["1_Pooling"]


def test_a_link_in_the_download_folder_is_not_followed(hub: Hub, folder: Path, tmp_path: Path) -> None:
    hub.cut_after_bytes = [100]
    run_pull(folder, hub.url)
    asyncio.run(remove(LocalAgents(folder)))
    aside = folder.with_name(f"{folder.name}.download")
    aside.mkdir()
    (aside / ".of").write_text("x")
    (tmp_path / "elsewhere").mkdir()
    (aside / "1_Pooling").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(WeightsError, match=r"1_Pooling/config\.json cannot be written"):
        run_pull(folder, hub.url)
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("path", ["../up", "/etc", "a/../../b", "..", ".hidden", "a\\b", "", "a//b", "1/2/3/4/5"])
def test_unsafe_module_paths_are_ignored(hub: Hub, folder: Path, path: str) -> None:
    assert not is_plain_path(f"{path}/x")
    hub.files["modules.json"] = json.dumps([{"path": path, "type": "m.Pooling"}]).encode()
    run_pull(folder, hub.url)
    assert read_all(folder) == TOP | {"modules.json": hub.files["modules.json"]}
