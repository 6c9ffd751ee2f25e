"""The reference layout on one machine: sixteen real vLLM workers on logical GPUs. Needs about 15 GB of memory."""

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from raylaunch.engine.rehearsal.standin_model import smallest_shape, write_standin

from . import harness

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.alone]
REFERENCE = Path(__file__).parents[2] / "configs" / "deepseek-r1-70b.yaml"
BY_PATH = "/data/DeepSeek-R1-Distill-Llama-70B"
"""The reference case's model as its recipe names it."""
PROMPTS = ["Hello world", "你是谁", "the quick brown fox jumps over the lazy dog"]


def complete(url: str, model: str, prompt: str, max_tokens: int = 24) -> dict[str, Any]:
    body = {
        "model": model, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "ignore_eos": True,
        "return_token_ids": True,
    }  # fmt: skip
    request = urllib.request.Request(
        f"{url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as response:
        answer: dict[str, Any] = json.load(response)
    return answer


def complete_in_one_process(folder: Path, prompt: str, max_tokens: int = 24) -> list[int]:
    """The greedy tokens of the same model by Transformers, whatever they are, without the prompt's own."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)  # several spin while they wait for a busy core
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokens = AutoTokenizer.from_pretrained(folder)(prompt, return_tensors="pt").input_ids
    prompt_count = tokens.shape[1]
    with torch.inference_mode():
        for _ in range(max_tokens):
            tokens = torch.cat([tokens, model(tokens).logits[:, -1:].argmax(-1)], dim=1)
    return list(map(int, tokens[0, prompt_count:]))


def check_reference_case(served: harness.Serving) -> None:
    """What a rehearsal of the reference case prints, and the recipe's own request by path and by repo."""
    text = served.text()
    assert "16 vLLM workers, TP=4 x PP=4, over 2 Ray nodes of 8 GPUs" in text
    assert "it did not prove" in text
    assert "0-3    0-3  0" in text  # the rank map: a TP group in one node
    assert "12-15  0-3  3   127.0.0.2" in text
    answer = complete(served.url, BY_PATH, "你是谁", max_tokens=32)
    assert answer["usage"]["completion_tokens"] == 32
    by_repo = complete(served.url, "unsloth/DeepSeek-R1-Distill-Llama-70B", "你是谁", max_tokens=4)
    assert by_repo["usage"]["completion_tokens"] == 4
    assert sum(read_pss_gib(pid) for pid in harness.list_processes(served.home)) < 16


@pytest.mark.timeout(1500)
def test_reference_case_rehearses(tmp_path: Path) -> None:
    """configs/deepseek-r1-70b.yaml --rehearse: 2 x 8 logical GPUs, TP=4, PP=4, and the recipe's own request.

    In float32, so that its greedy output must equal that of Transformers in one process with the same stand-in. Needs
    the CPU engine, 16 GB of memory and about three minutes.
    """
    with harness.serving(tmp_path / "sixteen", str(REFERENCE), "--rehearse", "--set", "engine.dtype=float32") as served:
        served.wait_ready()
        check_reference_case(served)
        found = [complete(served.url, BY_PATH, prompt)["choices"][0]["token_ids"] for prompt in PROMPTS]
        assert served.end() == 0
        assert served.wait_gone() == {}
    model = write_standin(tmp_path / "model", smallest_shape(tp=4, pp=4))
    assert found == [complete_in_one_process(model, prompt) for prompt in PROMPTS]


@pytest.mark.whole
@pytest.mark.timeout(1500)
def test_reference_case_rehearses_in_float16(tmp_path: Path) -> None:
    """The README's command as it stands. Needs the CPU engine, 16 GB of memory and about three minutes."""
    with harness.serving(tmp_path, str(REFERENCE), "--rehearse") as served:
        served.wait_ready()
        check_reference_case(served)
        assert served.end() == 0
        assert served.wait_gone() == {}


def read_pss_gib(pid: int) -> float:
    """Memory of a process with shared pages counted once among their users, in GiB."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / (1 << 20)
