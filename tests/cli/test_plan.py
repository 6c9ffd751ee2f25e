"""`raylaunch plan` as a user runs it: folders, the hub, launch files, JSON, exit codes."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import yaml

from raylaunch.cli import main
from raylaunch.cluster import ray_session
from raylaunch.plan import asked
from tests.hub_server import Hub, serve
from tests.plan.shapes import CONFIGS

_KEYS = {
    "tensor_parallel_size", "pipeline_parallel_size", "replicas", "dtype", "kv_cache_dtype", "fits", "reason",
    "weights_gib", "overhead_gib", "kv_cache_gib", "kv_cache_tokens", "requests", "named",
}  # fmt: skip
_RANGES = ("overhead_gib", "kv_cache_gib", "kv_cache_tokens", "requests")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main.main(["plan", *arguments])
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def write_model(folder: Path, name: str = "llama-70b") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIGS[name]))
    return folder


def write_launch(folder: Path, model: Path, **engine: Any) -> Path:
    file = folder / "launch.yaml"
    file.write_text(
        yaml.safe_dump({
            "model": {"repo": "owner/name", "path": str(model)},
            "cluster": {"nodes": 2, "gpus_per_node": 8},
            "engine": {"dtype": "float16", "max_model_len": 32768, **engine},
        })
    )  # fmt: skip
    return file


def test_json_has_the_named_layout_and_ranges(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_model(tmp_path / "model")
    launch = write_launch(tmp_path, model, tensor_parallel_size=4, pipeline_parallel_size=4)
    status, out, _ = run(capsys, str(launch), "--gpus", "2x8x4090", "--json")
    written = json.loads(out)
    assert status == 0
    assert [gpus["memory_gib"] for gpus in written["gpus"]] == [23.52, 23.52]
    (named,) = [layout for layout in written["layouts"] if layout["named"]]
    assert (named["tensor_parallel_size"], named["weights_gib"]) == (4, pytest.approx(8.49, abs=0.01))
    for layout in written["layouts"]:
        assert layout.keys() >= _KEYS
        assert all(low <= high for low, high in (layout[key] for key in _RANGES))


def test_refusal_has_exit_code_1_unless_forced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    launch = write_launch(tmp_path, write_model(tmp_path / "model"), tensor_parallel_size=4)
    status, out, _ = run(capsys, str(launch), "--gpus", "2x8x4090")
    assert status == 1
    assert "*4x1x1 does not fit: weights 32.89 GiB" in out.replace("* ", "*").replace("\n    ", " ")
    assert run(capsys, str(launch), "--gpus", "2x8x4090", "--force")[0] == 0


def test_written_launch_names_the_best_layout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It loads, and planned again it names what was first."""
    model, output = write_model(tmp_path / "model"), tmp_path / "out.yaml"
    assert run(capsys, str(model), "--gpus", "1x8xH100", "-o", str(output))[0] == 0
    assert "# Weights: 131.45 GiB in all" in output.read_text()
    status, out, _ = run(capsys, str(output), "--gpus", "1x8xH100", "--json")
    assert status == 0
    assert json.loads(out)["layouts"][0]["named"]


def test_written_launch_keeps_set_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Replicas are of one launch; a folder has no repository, not the demo's."""
    model, output = write_model(tmp_path / "model", "llama-3-8b"), tmp_path / "out.yaml"
    asked = ("--set", "engine.max_num_seqs=16", "--set", "engine.enforce_eager=true", "-o", str(output))
    assert run(capsys, str(model / "config.json"), "--gpus", "2x4x4090", *asked)[0] == 0
    written = yaml.safe_load(output.read_text())
    assert written["model"] == {"path": str(model)}
    assert written["cluster"] == {"nodes": 2, "gpus_per_node": 4, "replicas": 4}
    assert (written["engine"]["max_num_seqs"], written["engine"]["enforce_eager"]) == (16, True)
    assert run(capsys, str(output), "--gpus", "2x4x4090")[0] == 0


def test_unequal_machines_are_not_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, output = write_model(tmp_path / "model", "llama-3-8b"), tmp_path / "out.yaml"
    status, _, err = run(capsys, str(model), "--gpus", "1x8x4090+1x4x4090", "-o", str(output))
    assert (status, output.exists()) == (1, False)
    assert "machines with 4 and 8 GPUs" in err


def test_model_of_the_hub_is_planned_without_its_weights(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """config.json and the headers are fetched; of the weights no more than one read."""
    config = CONFIGS["llama-3-8b"]
    header = {
        f"model.layers.{at}.mlp.up_proj.weight": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 436_000_000]}
        for at in range(32)
    }
    text = json.dumps(header).encode()
    weights = struct.pack("<Q", len(text)) + text + bytes(4 << 20)
    with serve(Hub("owner/model", {"config.json": json.dumps(config).encode(), "model.safetensors": weights})) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        status, out, err = run(capsys, "owner/model", "--gpus", "H100", "--json")
    assert status == 0, err
    written = json.loads(out)
    assert written["model"] == "owner/model"
    assert written["layouts"][0]["weights_gib"] == pytest.approx(14.96, rel=0.01)


def test_mistakes_are_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_model(tmp_path / "model")
    for arguments, words in (
        ((str(model),), "add --gpus"),
        ((str(model), "--gpus", "2x8x4091"), "nearest is 4090"),
        ((str(tmp_path), "--gpus", "4090"), "config.json cannot be read"),
        (("./nowhere", "--gpus", "4090"), "nowhere/config.json cannot be read"),
    ):
        status, _, err = run(capsys, *arguments)
        assert status == 1
        assert words in err
    (model / "config.json").write_text("[]")
    assert "is not a JSON object" in run(capsys, str(model), "--gpus", "4090")[2]
    (model / "config.json").write_text("{}")
    assert "no usable hidden_size" in run(capsys, str(model), "--gpus", "4090")[2]


def test_a_question_from_the_laptop_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`ask-vllm` on the head: a file below its home, which is removed; one line of JSON, however long."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(ray_session, "find_address", lambda: None)
    monkeypatch.setattr(asked, "ask_installed", lambda question: question)
    text = json.dumps({"layouts": ["[bold]x"] * 200})
    (tmp_path / "question.json").write_text(text)
    with pytest.raises(SystemExit) as ended:
        main.main(["ask-vllm", "question.json"])
    assert (ended.value.code or 0, capsys.readouterr().out.strip()) == (0, text)
    assert not (tmp_path / "question.json").exists()
