"""Draft models, tokenizers and LoRA adapters of a launch, by folder and by Hugging Face id."""

from pathlib import Path

import pytest

from raylaunch.base.errors import LaunchFileError
from raylaunch.config.companions import list_companions, list_fetched, use_folders
from raylaunch.config.launch import LaunchConfig
from raylaunch.config.launch_file import load


def make_launch(tmp_path: Path, path: str = "") -> LaunchConfig:
    file = tmp_path / "launch.yaml"
    file.write_text(
        f"model: {{repo: big/model{path}}}\n"
        "engine:\n  tokenizer: some/tok\n  enable_lora: true\n"
        "  speculative_config: {model: some/draft, num_speculative_tokens: 2, method: draft_model}\n"
        "server:\n  lora_modules: [{name: a, path: some/lora}, {name: b, path: /data/lora}]\n"
    )
    return load(file, environ={})


def test_ids_have_folders_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside model.path, so the same on every node; else among raylaunch's own models. A folder stays as it is."""
    monkeypatch.setenv("RAYLAUNCH_HOME", str(tmp_path / "home"))
    names = ["some--draft", "some--tok", "some--lora"]
    found = list_companions(make_launch(tmp_path, ", path: /data/big"))
    assert [each.folder for each in found] == [*(f"/data/{name}" for name in names), "/data/lora"]
    assert [each.repo for each in found] == ["some/draft", "some/tok", "some/lora", None]
    fetched = list_fetched(make_launch(tmp_path))
    assert [each.folder for each in fetched] == [str(tmp_path / "home" / "models" / name) for name in names]


def test_vllm_gets_folders_instead_of_ids(tmp_path: Path) -> None:
    """Only where the folder exists; other values and keys stay."""
    launch = make_launch(tmp_path, f", path: {tmp_path}/big")
    assert use_folders(launch).dump(mask=False) == launch.dump(mask=False)
    for name in ("some--draft", "some--tok", "some--lora"):
        (tmp_path / name).mkdir()
    used = use_folders(launch)
    assert used.engine["tokenizer"] == str(tmp_path / "some--tok")
    spec = launch.engine["speculative_config"]
    assert used.engine["speculative_config"] == {**spec, "model": str(tmp_path / "some--draft")}
    assert [module["path"] for module in used.server["lora_modules"]] == [str(tmp_path / "some--lora"), "/data/lora"]


@pytest.mark.parametrize("value", ["ngram", "s3://bucket/x", "gpt2"])
def test_what_is_no_folder_and_no_id_is_left_alone(tmp_path: Path, value: str) -> None:
    file = tmp_path / "launch.yaml"
    file.write_text(f"model: {{repo: big/model}}\nengine: {{tokenizer: '{value}'}}\n")
    assert list_companions(load(file, environ={})) == []


@pytest.mark.parametrize("value", ["../up/x", "a/b/c", "~/lora", "./x"])
def test_a_relative_path_is_refused(tmp_path: Path, value: str) -> None:
    """It is another folder on every node; one that exists here is taken by its absolute path."""
    file = tmp_path / "launch.yaml"
    file.write_text(f"model: {{repo: big/model}}\nserver: {{lora_modules: [{{name: a, path: '{value}'}}]}}\n")
    with pytest.raises(LaunchFileError) as caught:
        load(file, environ={})
    assert f'{file}:2: server.lora_modules: entry 1: "{value}" is neither' in caught.value.problems[0]
