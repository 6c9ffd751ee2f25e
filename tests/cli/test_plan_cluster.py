"""`raylaunch plan` beside a running Ray of two nodes with a logical GPU each."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from raylaunch.cluster.private import PrivateRay
from tests.plan.shapes import CONFIGS

pytestmark = [pytest.mark.ray, pytest.mark.whole]
_DEADLINE_S = 180


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Any]:
    """Runs a verb with a launch of TP=1 x PP=2, joined to that Ray."""
    model = tmp_path / "model"
    model.mkdir()
    config = {
        "architectures": ["LlamaForCausalLM"], "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
        **CONFIGS["llama-3-8b"],
    }  # fmt: skip
    (model / "config.json").write_text(json.dumps(config))
    launch = tmp_path / "launch.yaml"
    launch.write_text(
        yaml.safe_dump({
            "model": {"repo": "owner/name", "path": str(model)},
            "cluster": {"nodes": 2, "gpus_per_node": 1},
            "engine": {"pipeline_parallel_size": 2, "max_model_len": 4096},
        })
    )  # fmt: skip
    cluster = PrivateRay.start(nodes=2, gpus_per_node=1, env_vars={})
    environment = os.environ | {"RAY_ADDRESS": cluster.address, "RAYLAUNCH_HOME": str(tmp_path / "home")}

    def run_verb(verb: str, *options: str) -> "subprocess.CompletedProcess[str]":
        words = [verb, *([] if verb == "cluster-gpus" else [str(launch)]), *options]
        command = [sys.executable, "-m", "raylaunch", *words]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=_DEADLINE_S, check=False
        )

    try:
        yield run_verb
    finally:
        cluster.stop()


def test_rates_come_from_netcheck_and_figures_from_vllm(run: Any) -> None:
    """Logical GPUs are refused with a reason; links have the rate that netcheck measured; a Ray task asks vLLM."""
    assert json.loads(run("cluster-gpus").stdout)["network_bytes_s"] == 0.0
    checked = run("netcheck", "--rehearse", "--json")
    assert checked.returncode == 0, checked.stderr
    (link,) = json.loads(checked.stdout)["links"]
    after = json.loads(run("cluster-gpus").stdout)
    assert after["nodes"] == [[], []]
    assert after["network_bytes_s"] == pytest.approx(1e6 * min(link["out_mb_s"], link["in_mb_s"]))
    refused = run("plan")
    assert refused.returncode == 1
    assert "logical GPUs have no memory" in refused.stderr
    planned = run("plan", "--gpus", "2x1x4090", "--ask-vllm", "--json")
    assert planned.returncode == 0, planned.stderr
    (named,) = [layout for layout in json.loads(planned.stdout)["layouts"] if layout["named"]]
    assert named["source"] == "vLLM asked"
    assert named["weights_gib"] == pytest.approx(7.48, rel=0.01)
