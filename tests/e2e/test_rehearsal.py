"""The reference layout on one machine: sixteen real vLLM workers on logical GPUs. Needs about 15 GB of memory."""

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from raylaunch.engine.rehearsal.standin_model import Shape, write_standin

from . import harness

pytestmark = [pytest.mark.engine, pytest.mark.slow]
REPO = Path(__file__).parents[2]
PROMPTS = ["Hello world", "你是谁", "the quick brown fox jumps over the lazy dog"]


def complete(url: str, model: str, prompt: str, max_tokens: int = 24) -> dict[str, Any]:
    body = {"model": model, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "ignore_eos": True}
    request = urllib.request.Request(
        f"{url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as response:
        answer: dict[str, Any] = json.load(response)
    return answer


def write_launch(folder: Path, model: Path, *, nodes: int, gpus: int, tp: int, pp: int) -> Path:
    """A float32 launch of a stand-in model that is served as it is, without --rehearse."""
    launch = folder / f"tp{tp}-pp{pp}.yaml"
    launch.write_text(f"""\
model: {{repo: example/stand-in, path: {model}}}
cluster: {{nodes: {nodes}, gpus_per_node: {gpus}, local: true}}
engine:
  tensor_parallel_size: {tp}
  pipeline_parallel_size: {pp}
  dtype: float32
  enforce_eager: true
  max_model_len: 1024
  kv_cache_memory_bytes: 67108864
""")
    return launch


@pytest.mark.timeout(1500)
def test_sixteen_workers_say_what_one_says(tmp_path: Path) -> None:
    """Greedy output at TP=4 x PP=4 over two nodes equals that of TP=1 PP=1, in float32."""
    model = write_standin(tmp_path / "model", Shape(heads=16, kv_heads=8, layers=8))
    said: dict[int, list[str]] = {}
    for nodes, gpus, tp, pp in ((1, 1, 1, 1), (2, 8, 4, 4)):
        launch = write_launch(tmp_path, model, nodes=nodes, gpus=gpus, tp=tp, pp=pp)
        with harness.serving(tmp_path / f"home{tp}", str(launch)) as served:
            served.wait_ready()
            said[tp] = [complete(served.url, str(model), prompt)["choices"][0]["text"] for prompt in PROMPTS]
            assert served.end() == 0
            assert served.wait_gone() == {}
    assert said[4] == said[1]
    assert all(said[1])


@pytest.mark.timeout(1500)
def test_reference_case_rehearses(tmp_path: Path) -> None:
    """configs/deepseek-r1-70b.yaml --rehearse: 2 x 8 logical GPUs, TP=4, PP=4, fp16, and the recipe's own request."""
    with harness.serving(tmp_path, str(REPO / "configs/deepseek-r1-70b.yaml"), "--rehearse") as served:
        served.wait_ready()
        text = served.text()
        assert "16 vLLM workers, TP=4 x PP=4, over 2 Ray nodes of 8 GPUs" in text
        assert "it did not prove" in text
        assert "0-3    0-3  0" in text  # the rank map: a TP group in one node
        assert "12-15  0-3  3   127.0.0.2" in text
        answer = complete(served.url, "/data/DeepSeek-R1-Distill-Llama-70B", "你是谁", max_tokens=32)
        assert answer["usage"]["completion_tokens"] == 32
        by_repo = complete(served.url, "unsloth/DeepSeek-R1-Distill-Llama-70B", "你是谁", max_tokens=4)
        assert by_repo["usage"]["completion_tokens"] == 4
        memory_gib = sum(read_pss_gib(pid) for pid in harness.list_processes(tmp_path))
        assert memory_gib < 16
        assert served.end() == 0
        assert served.wait_gone() == {}


def read_pss_gib(pid: int) -> float:
    """Memory of a process with shared pages counted once among their users, in GiB."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / (1 << 20)
