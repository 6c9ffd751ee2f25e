"""Model folders on a real disk, complete and damaged."""

import hashlib
import json
import os
import struct
import tempfile
from pathlib import Path

import pytest

from raylaunch.node.model_folder import check_safetensors, inspect_folder


def write_weights(path: Path, count: int = 1000) -> None:
    header = json.dumps({"__metadata__": {}, "w": {"dtype": "F32", "shape": [count], "data_offsets": [0, 4 * count]}})
    path.write_bytes(struct.pack("<Q", len(header)) + header.encode() + bytes(4 * count))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model in two shards, with its index, tokenizer and some things that do not matter."""
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    for shard in shards:
        write_weights(tmp_path / shard)
    index = {"weight_map": {f"layer{number}": shard for number, shard in enumerate(shards)}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "README.md").write_text("hello")
    (tmp_path / ".cache").mkdir()
    (tmp_path / "original").mkdir()
    return tmp_path


def test_complete_model(model):
    facts = inspect_folder(str(model))
    assert facts.is_complete
    assert facts.has_tokenizer
    names = [file.name for file in facts.files]
    assert names == sorted(names)
    assert {"config.json", "model-00002-of-00002.safetensors", "tokenizer.json"} < set(names)
    assert not {"README.md", ".cache", "original"} & set(names)
    sizes = {file.name: (file.size, file.sha256) for file in facts.files}
    assert sizes["model-00001-of-00002.safetensors"][1] is None
    text = b'{"model_type": "llama"}'
    assert sizes["config.json"] == (len(text), hashlib.sha256(text).hexdigest())


def test_a_single_weight_file_needs_no_index(model):
    (model / "model.safetensors.index.json").unlink()
    assert inspect_folder(str(model)).is_complete


def test_no_folder_and_no_folder_but_a_file(model):
    assert not inspect_folder(str(model / "nowhere")).exists
    facts = inspect_folder(str(model / "config.json"))
    assert facts.error == "is a file, not a folder"
    assert not facts.is_complete


def test_a_shard_that_the_index_names_is_missing(model):
    (model / "model-00002-of-00002.safetensors").unlink()
    assert inspect_folder(str(model)).broken == ("model-00002-of-00002.safetensors is missing (the index names it)",)


@pytest.mark.parametrize("kept", [-1, 40, 7, 0])
def test_a_shard_is_cut_short(model, kept):
    shard = model / "model-00001-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:kept])
    (problem,) = inspect_folder(str(model)).broken
    assert problem.startswith(f"{shard.name} is truncated")


def test_a_shard_has_too_many_bytes_or_is_something_else(model):
    shard = model / "model-00001-of-00002.safetensors"
    with shard.open("ab") as file:
        file.write(b"xx")
    assert "is 2 bytes longer" in inspect_folder(str(model)).broken[0]
    shard.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n")
    assert "is not a safetensors file" in inspect_folder(str(model)).broken[0]


@pytest.mark.parametrize("header", [b"[1, 2]", b'{"w": 3}', b'{"w": {}}', b'{"w": {"data_offsets": "x"}}', b"\xff\xfe"])
def test_a_header_that_is_no_header(tmp_path, header):
    file = tmp_path / "m.safetensors"
    file.write_bytes(struct.pack("<Q", len(header)) + header + bytes(9))
    assert "is not a safetensors file" in (check_safetensors(file) or "")


def test_a_link_to_nothing(model):
    shard = model / "model-00001-of-00002.safetensors"
    shard.unlink()
    shard.symlink_to(model / "blobs" / "gone")
    assert inspect_folder(str(model)).broken == (f"{shard.name} is a broken link",)


def test_links_are_followed(model, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("blobs") / "blob"
    shard = model / "model-00001-of-00002.safetensors"
    shard.rename(elsewhere)
    shard.symlink_to(elsewhere)
    assert inspect_folder(str(model)).is_complete


@pytest.mark.parametrize("index", ["", "{", "[]", '{"weight_map": 3}', "{}"])
def test_an_index_that_is_none(model, index):
    (model / "model.safetensors.index.json").write_text(index)
    assert inspect_folder(str(model)).broken == ("model.safetensors.index.json has no readable weight_map",)


@pytest.mark.parametrize(("config", "word"), [("{", "not valid JSON"), ("[]", "not a JSON object"), (None, "missing")])
def test_a_config_that_is_none(model, config, word):
    (model / "config.json").unlink()
    if config is not None:
        (model / "config.json").write_text(config)
    (problem,) = inspect_folder(str(model)).broken
    assert problem.startswith("config.json")
    assert word in problem


def test_no_weights_and_no_tokenizer(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    facts = inspect_folder(str(tmp_path))
    assert not facts.has_weights
    assert not facts.has_tokenizer
    assert not facts.is_complete


def test_a_folder_that_may_not_be_read():
    """As root the test switches to user nobody, because root may read everything."""
    was_root = os.geteuid() == 0
    with tempfile.TemporaryDirectory() as made:  # not tmp_path, whose parents only its owner may enter
        folder = Path(made)
        try:
            folder.chmod(0 if not was_root else 0o700)
            if was_root:
                os.seteuid(65534)
            assert inspect_folder(made).error == "cannot be read: Permission denied"
        finally:
            if was_root:
                os.seteuid(0)
            folder.chmod(0o755)
