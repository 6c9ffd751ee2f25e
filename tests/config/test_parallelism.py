"""TP x PP against the machines, and against the model's heads and layers."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from raylaunch.config import launch_file, parallelism
from tests.config.launches import BASE, load, problems_of, write


@pytest.mark.parametrize(
    ("sets", "expected"),
    [
        (["engine.pipeline_parallel_size=5"], r"TP=4 x PP=5 needs 20 GPUs, but cluster has 2 node.* = 16"),
        (["engine.data_parallel_size=2"], r"raylaunch places TP x PP only"),
        (["engine.prefill_context_parallel_size=2"], r"raylaunch places TP x PP only"),
        (["engine.tensor_parallel_size=16", "engine.pipeline_parallel_size=1"], r"16 is more than the 8 GPU.* network"),
        (["engine.tensor_parallel_size=5", "engine.pipeline_parallel_size=3"], r"only 2 groups of 5 GPUs fit"),
    ],
)
def test_layouts_that_do_not_fit(tmp_path: Path, sets: list[str], expected: str) -> None:
    (problem,) = problems_of(write(tmp_path, BASE), *sets)
    assert re.search(rf"^--set engine\.\w+: {expected}", problem), problem


def test_tensor_parallelism_across_nodes_can_be_asked_for(tmp_path: Path) -> None:
    sets = ["engine.tensor_parallel_size=16", "engine.pipeline_parallel_size=1", "cluster.tp_across_nodes=true"]
    assert load(write(tmp_path, BASE), *sets).world_size == 16


@pytest.mark.parametrize(
    ("sets", "expected"),
    [
        ([], ""),
        (
            ["engine.pipeline_parallel_size=1"],
            "uses 4 of 16 GPUs .*PP=1 .*_size=4 .*_size=4$",
        ),
        (
            ["engine.tensor_parallel_size=1", "engine.pipeline_parallel_size=1"],
            "uses 1 of 16 .*tensor_parallel_size=8 .*=2$",
        ),
        (
            ["engine.tensor_parallel_size=3", "engine.pipeline_parallel_size=4"],
            "uses 12 of 16 .*tensor_parallel_size=8 .*=2$",
        ),
        (["cluster.nodes=1", "engine.pipeline_parallel_size=1"], r"uses 4 of 8 GPUs .*1 node\(s\) x 8.*_size=4 .*=2$"),
    ],
)
def test_gpus_that_stay_unused(tmp_path: Path, sets: list[str], expected: str) -> None:
    """With the layout that would use all."""
    unused = parallelism.describe_unused(load(write(tmp_path, BASE), *sets))
    assert re.search(expected, unused) if expected else not unused


def test_a_cluster_that_has_more_than_the_launch_names(tmp_path: Path) -> None:
    """The model's heads decide which TP is advised."""
    (tmp_path / "config.json").write_text(json.dumps({"num_attention_heads": 12, "num_hidden_layers": 40}))
    launch = load(None, f"model.path={tmp_path}")
    unused = parallelism.describe_unused(launch, nodes=2, gpus_per_node=8)
    assert "uses 1 of 16 GPUs" in unused
    assert unused.endswith(
        "--set cluster.nodes=2 --set cluster.gpus_per_node=8 --set engine.tensor_parallel_size=4 "
        "--set engine.pipeline_parallel_size=4"
    )


def test_a_bad_value_brings_no_second_problem(tmp_path: Path) -> None:
    (problem,) = problems_of(write(tmp_path, BASE), "cluster.gpus_per_node=eight")
    assert "expected an integer" in problem


LLAMA_70B = {"num_attention_heads": 64, "num_key_value_heads": 8, "num_hidden_layers": 80}


@pytest.mark.parametrize(
    ("shape", "tp", "pp", "expected"),
    [
        (LLAMA_70B, 8, 2, []),
        (LLAMA_70B, 3, 1, ["3 cannot split the model's 64 attention heads", "3 cannot split the model's 8 KV heads"]),
        ({"text_config": LLAMA_70B, "num_attention_heads": 7}, 4, 4, []),
        ({**LLAMA_70B, "num_hidden_layers": 3}, 4, 4, ["4 stages are more than the model's 3 layers"]),
        ({"num_attention_heads": 9, "num_key_value_heads": 3}, 2, 1, [r"9 attention heads \(1, 3 can\)", "3 KV heads"]),
        ({"num_attention_heads": 16, "num_key_value_heads": 2}, 8, 1, []),
        ({"num_attention_heads": "64", "num_key_value_heads": None, "num_hidden_layers": True}, 3, 5, []),
        ({"num_attention_heads": -1, "num_key_value_heads": 0, "text_config": []}, 3, 5, []),
    ],
)
def test_heads_and_layers_have_to_split(
    tmp_path: Path, shape: dict[str, Any], tp: int, pp: int, expected: list[str]
) -> None:
    sets = [f"engine.tensor_parallel_size={tp}", f"engine.pipeline_parallel_size={pp}", "cluster.nodes=4"]
    launch = load(write(tmp_path, BASE), *sets)
    found = parallelism.check_model_shape(launch, shape)
    assert len(found) == len(expected)
    assert all(
        re.search(want, problem) and problem.startswith("--set engine.")
        for want, problem in zip(expected, found, strict=True)
    )
    # and the same through the file, where the model is on this machine
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(shape))
    sets.append(f"model.path={tmp_path / 'model'}")
    if expected:
        assert problems_of(write(tmp_path, BASE), *sets) == tuple(found)
    else:
        launch_file.check_local_model(load(write(tmp_path, BASE), *sets))


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"[" * 100_000])
def test_a_broken_model_config_is_reported(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    (problem,) = problems_of(write(tmp_path, BASE), f"model.path={tmp_path}")
    assert (
        problem == f"--set model.path: {tmp_path / 'config.json'} is not a JSON object, so this is not a model folder"
    )


@pytest.mark.parametrize(
    ("sets", "count", "share"),
    [
        (("cluster.replicas=2", "engine.tensor_parallel_size=8", "engine.pipeline_parallel_size=1"), 2, (1, 8)),
        (("cluster.replicas=auto", "engine.tensor_parallel_size=4", "engine.pipeline_parallel_size=1"), 4, (1, 4)),
        (("cluster.replicas=auto", "cluster.nodes=5"), 2, (2, 8)),
        (("cluster.replicas=2", "cluster.nodes=6", "engine.tensor_parallel_size=5", "engine.pipeline_parallel_size=3"),
         2, (3, 8)),
        ((), 1, (2, 8)),
    ],
)  # fmt: skip
def test_replicas_share_the_nodes(tmp_path: Path, sets: tuple[str, ...], count: int, share: tuple[int, int]) -> None:
    """Inside a node where one fits, else over complete nodes; each is a launch with its share of them."""
    launch = load(write(tmp_path), *sets)
    one = launch.for_replica().cluster
    assert (launch.replicas, (one.nodes, one.gpus_per_node)) == (count, share)


def test_replicas_that_do_not_fit(tmp_path: Path) -> None:
    (problem,) = problems_of(write(tmp_path), "cluster.replicas=2")
    assert "cluster.replicas" in problem
    assert "2 replicas of 16 GPU(s) do not fit into 2 node(s) x 8 GPU(s): they take 2 complete nodes each" in problem
