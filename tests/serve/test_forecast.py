"""What `serve` says of the KV cache before the load, what it refuses, and what it keeps of a start."""

import contextlib
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raylaunch.base.errors import ChecksFailedError
from raylaunch.config import launch_file
from raylaunch.config.launch import LaunchConfig
from raylaunch.engine.messages import EngineReady
from raylaunch.plan import history
from raylaunch.serve.forecast import forecast_launch
from raylaunch.serve.readiness import describe_kv_cache
from tests.plan.shapes import CONFIGS

_CARD = ("NVIDIA GeForce RTX 4090", int(23.52 * (1 << 30)))
_NODES = [[_CARD] * 8] * 2


def load(folder: Path, config: dict[str, Any] | None = None, *sets: str) -> LaunchConfig:
    (folder / "config.json").write_text(json.dumps(CONFIGS["llama-70b"] if config is None else config))
    values = (
        f"model.path={folder}", "model.repo=owner/name", "cluster.nodes=2", "cluster.gpus_per_node=8",
        "engine.dtype=float16", "engine.max_model_len=32768", "engine.kv_cache_memory_bytes=null",
        "engine.tensor_parallel_size=4", "engine.pipeline_parallel_size=4", "engine.enforce_eager=false",
    )  # fmt: skip
    return launch_file.load(None, sets=(*values, *sets), environ={})


def test_forecast_is_printed_and_compared(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    forecast = forecast_launch(load(tmp_path), _NODES)
    assert forecast is not None
    assert forecast.tokens[0] == pytest.approx(605_000, rel=0.002)
    assert "plan: weights 8.49 GiB a GPU (stage" in capfd.readouterr().err
    line = describe_kv_cache(EngineReady(kv_cache_tokens=612_000, max_model_len=32768), forecast)
    assert line.startswith("KV cache 612,000 tokens (plan: 605,")


def test_what_cannot_fit_is_refused_before_the_load(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """With the arithmetic; --force starts it, and settings that the arithmetic does not know are let through."""
    one_stage = "engine.pipeline_parallel_size=1"
    with pytest.raises(ChecksFailedError, match=r"weights 32\.89 GiB \+ at least .* exceed 23\.52 GiB x 0\.92"):
        forecast_launch(load(tmp_path, None, one_stage), _NODES)
    assert forecast_launch(load(tmp_path, None, one_stage, "keep.force=true"), _NODES) is not None
    assert "--force was given" in capfd.readouterr().err
    assert forecast_launch(load(tmp_path, None, one_stage, "engine.cpu_offload_gb=20"), _NODES) is not None


def test_next_forecast_is_within_3_percent_of_what_vllm_took(tmp_path: Path) -> None:
    """Of the same key; other settings keep the formulas."""
    launch = load(tmp_path)
    first = forecast_launch(launch, _NODES)
    assert first is not None
    history.remember(first, 612_000)
    again = forecast_launch(launch, _NODES)
    assert again is not None
    assert again.source == "measured at an earlier start"
    assert again.tokens == (pytest.approx(612_000 * 0.97, rel=1e-3), pytest.approx(612_000 * 1.03, rel=1e-3))
    fuller = forecast_launch(load(tmp_path, None, "engine.gpu_memory_utilization=0.95"), _NODES)
    assert fuller is not None
    assert fuller.tokens[0] > again.tokens[0] * 1.04
    other = forecast_launch(load(tmp_path, None, "engine.max_num_seqs=64"), _NODES)
    assert other is not None
    assert other.source == "formulas"
    history.remember(replace(first, key="other"), 0)


def test_one_start_may_have_compiled(tmp_path: Path) -> None:
    """Qwen3-8B on a 4090: after a first start the next may have 1 GiB more, after a second one it is within 3 %."""
    sizes = ("cluster.nodes=1", "cluster.gpus_per_node=1", "engine.max_model_len=8192", "engine.max_num_seqs=256")
    one_gpu = (*sizes, "engine.tensor_parallel_size=1", "engine.pipeline_parallel_size=1")
    launch = load(tmp_path, CONFIGS["qwen3-8b"], *one_gpu)
    for taken, high in ((32_000, 32_000 * 1.03 + 7_500), (39_000, 39_000 * 1.03)):
        forecast = forecast_launch(launch, [[_CARD]])
        assert forecast is not None
        history.remember(forecast, taken)
        again = forecast_launch(launch, [[_CARD]])
        assert again is not None
        assert again.tokens == (pytest.approx(taken * 0.97, rel=1e-3), pytest.approx(high, rel=0.02))


@pytest.mark.no_cover
def test_odd_models_keep_nobody_from_serving(tmp_path: Path) -> None:
    """Fields of any type and size: a forecast, none, or a refusal, never another error."""
    dice = random.Random(7)
    values: list[Any] = [None, 0, 1, -3, 2.5, "x", [], [1, 2], {}, True, 7, 128, 4096, ["full_attention"] * 3, 10**9]
    names = sorted({key for config in CONFIGS.values() for key in config} | {"text_config", "vision_config"})
    names += ["hybrid_override_pattern", "attn_layer_indices", "mamba_n_heads", "mamba_d_state"]
    launch = load(tmp_path)
    for _ in range(200):
        config = dict(dice.choice(list(CONFIGS.values())))
        for name in dice.sample(names, 3):
            config[name] = dice.choice(values)
        if isinstance(layers := config.get("num_hidden_layers"), int) and layers > 10_000:
            continue
        (tmp_path / "config.json").write_text(json.dumps(config))
        with contextlib.suppress(ChecksFailedError):
            forecast_launch(launch, _NODES)
