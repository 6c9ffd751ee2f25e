"""Model folders on a real disk, complete and damaged."""

import hashlib
import json
import os
import struct
import tempfile
from pathlib import Path

import pytest

from raylaunch.node.loader_files import find_weights, is_tokenizer
from raylaunch.node.model_folder import ProblemKind, check_safetensors, find_problems, inspect_folder


def list_broken(folder: Path, **named: str) -> list[str]:
    return [str(problem) for problem in inspect_folder(str(folder), **named).broken]


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
    assert str(facts.error) == "is a file, not a folder"
    assert not facts.is_complete


def test_a_shard_that_the_index_names_is_missing(model):
    (model / "model-00002-of-00002.safetensors").unlink()
    assert list_broken(model) == ["model-00002-of-00002.safetensors is missing (the index names it)"]


@pytest.mark.parametrize("kept", [-1, 40, 7, 0])
def test_a_shard_is_cut_short(model, kept):
    shard = model / "model-00001-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:kept])
    (problem,) = list_broken(model)
    assert problem.startswith(f"{shard.name} is truncated")


def test_a_shard_has_too_many_bytes_or_is_something_else(model):
    shard = model / "model-00001-of-00002.safetensors"
    with shard.open("ab") as file:
        file.write(b"xx")
    assert "is 2 bytes longer" in list_broken(model)[0]
    shard.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n")
    assert "is a git-lfs pointer, not the file" in list_broken(model)[0]
    shard.write_text("<html>")
    assert "is truncated: 6 bytes" in list_broken(model)[0]


@pytest.mark.parametrize("header", [b"[1, 2]", b'{"w": 3}', b'{"w": {}}', b'{"w": {"data_offsets": "x"}}', b"\xff\xfe"])
def test_a_header_that_is_no_header(tmp_path, header):
    file = tmp_path / "m.safetensors"
    file.write_bytes(struct.pack("<Q", len(header)) + header + bytes(9))
    assert "is not a safetensors file" in (check_safetensors(file) or "")


def test_a_link_to_nothing(model):
    shard = model / "model-00001-of-00002.safetensors"
    shard.unlink()
    shard.symlink_to(model / "blobs" / "gone")
    assert list_broken(model) == [f"{shard.name} is a broken link"]


def test_links_are_followed(model, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("blobs") / "blob"
    shard = model / "model-00001-of-00002.safetensors"
    shard.rename(elsewhere)
    shard.symlink_to(elsewhere)
    assert inspect_folder(str(model)).is_complete


@pytest.mark.parametrize("index", ["", "{", "[]", '{"weight_map": 3}', "{}"])
def test_an_index_that_is_none(model, index):
    (model / "model.safetensors.index.json").write_text(index)
    assert list_broken(model) == ["model.safetensors.index.json has no readable weight_map"]


@pytest.mark.parametrize(("config", "word"), [("{", "not valid JSON"), ("[]", "not a JSON object"), (None, "missing")])
def test_a_config_that_is_none(model, config, word):
    (model / "config.json").unlink()
    if config is not None:
        (model / "config.json").write_text(config)
    (problem,) = list_broken(model)
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
            error = inspect_folder(made).error
            assert error is not None
            assert (error.kind, str(error)) == (ProblemKind.DENIED, "cannot be read: Permission denied")
        finally:
            if was_root:
                os.seteuid(0)
            folder.chmod(0o755)


# ---- what vLLM's loader takes


@pytest.mark.parametrize(
    ("load_format", "names", "loaded"),
    [
        ("auto", ["model.safetensors", "pytorch_model.bin", "x.pt"], ["model.safetensors"]),
        ("auto", ["consolidated.safetensors", "model.safetensors"], ["consolidated.safetensors"]),
        ("hf", ["consolidated.safetensors", "model.safetensors"], ["consolidated.safetensors", "model.safetensors"]),
        ("mistral", ["model.safetensors"], []),
        ("auto", ["pytorch_model.bin", "training_args.bin", "x.pt"], ["pytorch_model.bin"]),
        ("auto", ["x.pt"], ["x.pt"]),
        ("safetensors", ["pytorch_model.bin"], []),
        ("pt", ["model.safetensors", "x.pt"], ["x.pt"]),
        ("npcache", ["model.safetensors", "x.bin"], ["x.bin"]),
        ("auto", ["q4.gguf"], []),
        ("gguf", ["q4.gguf", "model.safetensors"], ["q4.gguf"]),
        ("dummy", ["model.safetensors"], []),
    ],
)
def test_weights_by_load_format(load_format: str, names: list[str], loaded: list[str]) -> None:
    assert list(find_weights(names, load_format)) == loaded


@pytest.mark.engine
@pytest.mark.parametrize("load_format", ["auto", "hf", "mistral", "safetensors", "pt", "npcache"])
def test_rule_is_vllm_s_own(tmp_path: Path, load_format: str) -> None:
    """For every combination of file kinds, the installed vLLM's loader names the same files."""
    from vllm.config.load import LoadConfig
    from vllm.model_executor.model_loader.default_loader import DefaultModelLoader

    kinds = ("consolidated.safetensors", "model.safetensors", "pytorch_model.bin", "optimizer.bin", "x.pt", "q.gguf")
    loader = DefaultModelLoader(LoadConfig(load_format=load_format))
    for number in range(1 << len(kinds)):
        folder = tmp_path / str(number)
        folder.mkdir()
        names = [kind for bit, kind in enumerate(kinds) if number >> bit & 1]
        for name in names:
            (folder / name).touch()
        try:
            found = loader._prepare_weights(str(folder), None, None, True, None)[1]
        except RuntimeError:
            found = []
        assert sorted(Path(path).name for path in found) == list(find_weights(names, load_format)), names


def write_mistral(folder: Path) -> Path:
    write_weights(folder / "consolidated.safetensors")
    (folder / "params.json").write_text("{}")
    (folder / "tekken.json").write_text("{}")
    return folder


def test_mistral_layout_is_complete_and_a_broken_one_is_not(tmp_path):
    facts = inspect_folder(str(write_mistral(tmp_path)))
    assert facts.is_complete
    assert facts.has_tokenizer
    (tmp_path / "consolidated.safetensors").write_bytes(b"xx")
    assert list_broken(tmp_path) == ["consolidated.safetensors is truncated: 2 bytes"]


def test_mistral_shards_are_those_of_their_index(tmp_path):
    write_mistral(tmp_path)
    index = {"weight_map": {"a": "consolidated.safetensors", "b": "consolidated-2.safetensors"}}
    (tmp_path / "consolidated.safetensors.index.json").write_text(json.dumps(index))
    assert list_broken(tmp_path) == ["consolidated-2.safetensors is missing (the index names it)"]


def test_unfinished_download_of_aria2(model):
    """It allocates the complete file at once: size and header look right."""
    (model / "model-00002-of-00002.safetensors.aria2").write_bytes(bytes(40))
    assert list_broken(model) == [
        "model-00002-of-00002.safetensors is not fully downloaded: aria2 left model-00002-of-00002.safetensors.aria2"
    ]


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json", "pytorch_model.bin", "tokenizer.model"])
def test_lfs_pointer_is_recognised_in_any_file(model, name):
    (model / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 17209920\n")
    problem = next(found for found in inspect_folder(str(model)).broken if found.name == name)
    assert problem.kind == ProblemKind.LFS_POINTER
    assert "git lfs pull" in problem.what


@pytest.mark.parametrize(
    "name",
    [
        *("tokenizer.json", "tokenizer.model", "tokenizer.model.v3", "tekken.json", "sentencepiece.bpe.model"),
        *("spiece.model", "ice_text.model", "source.spm", "rwkv_vocab_v20230424.txt", "vocab.bpe", "qwen.tiktoken"),
        *("vocab.json", "bpe.codes", "tokenization_kimi.py"),
    ],
)
def test_tokenizers_by_any_name(name):
    assert is_tokenizer(name)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "model.safetensors", "modeling_x.py"])
def test_what_is_no_tokenizer(name):
    assert not is_tokenizer(name)


def test_gguf_folder_passes_only_where_the_launch_loads_gguf(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "q4.gguf").write_bytes(b"GGUF")
    assert not inspect_folder(str(tmp_path)).has_weights
    assert inspect_folder(str(tmp_path), load_format="gguf").is_complete
    assert find_problems(tmp_path) == ("weights are missing: no file that load_format auto loads",)


def test_a_module_s_missing_files(model):
    """What vLLM reads of a sentence-transformers module; modules without files (Normalize) need none."""
    kinds = {"1_Pooling": "Pooling", "2_Dense": "Dense", "3_Normalize": "Normalize"}
    entries = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in kinds.items()]
    (model / "modules.json").write_text(json.dumps([{"path": "", "type": "Transformer"}, *entries]))
    missing = ["1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors"]
    why = "is missing (modules.json names"
    assert list_broken(model) == [f"{name} {why} {name.partition('/')[0]})" for name in missing]
    for name in ("1_Pooling/config.json", "2_Dense/config.json", "2_Dense/pytorch_model.bin"):
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_text("{}")
    facts = inspect_folder(str(model))
    assert facts.is_complete
    assert {"1_Pooling/config.json", "2_Dense/pytorch_model.bin"} <= {file.name for file in facts.files}
