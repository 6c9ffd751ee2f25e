"""Models of other kinds on a real engine: a draft model, a LoRA adapter, encoders that embed and classify."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from raylaunch.base.http_client import fetch_text
from raylaunch.base.processes import wait_until
from raylaunch.engine.rehearsal.standin_model import Shape, write_standin

from . import harness

pytestmark = [pytest.mark.engine, pytest.mark.alone, pytest.mark.whole]
KEY = {"RAYLAUNCH_SERVER__API_KEY": "sk-kinds"}
PROBED_WITHIN_S = 60.0


def write_launch(folder: Path, model: Path, engine: str = "", server: str = "") -> Path:
    """A launch of a model in a folder, probed when it was idle for two seconds."""
    path = folder / "launch.yaml"
    path.write_text(f"""\
model: {{path: {json.dumps(str(model))}}}
cluster: {{local: true}}
engine: {{dtype: float32, enforce_eager: true, kv_cache_memory_bytes: 67108864{engine}}}
server: {{{server}}}
keep: {{canary_s: 2}}
""")
    return path


def write_adapter(folder: Path, shape: Shape) -> None:
    """A LoRA adapter of the stand-in, large enough to change its answers."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    settings = {"peft_type": "LORA", "r": 8, "lora_alpha": 64, "target_modules": ["q_proj", "o_proj"], "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    torch.manual_seed(0)
    tensors = {}
    for layer in range(shape.layers):
        for name, (out, into) in {"q_proj": (shape.heads * 32, 64), "o_proj": (64, shape.heads * 32)}.items():
            stem = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            tensors[f"{stem}.lora_A.weight"] = torch.randn(8, into)
            tensors[f"{stem}.lora_B.weight"] = torch.randn(out, 8)
    save_file(tensors, folder / "adapter_model.safetensors")


def write_encoder(folder: Path, tokenizer: Path, *, classifies: bool) -> Path:
    """A tiny BERT with random weights."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, BertModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(vocab_size=512, max_position_embeddings=512, num_labels=1, **sizes)
    (BertForSequenceClassification(config) if classifies else BertModel(config)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    return folder


def sum_metric(served: harness.Serving, *names: str) -> float:
    """The sum of the series of these counters."""
    lines = (fetch_text(f"{served.url}/metrics", 60.0) or "").splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(names))


def wait_for_probe(served: harness.Serving) -> None:
    """An idle engine is asked, and answers."""
    counters = ("vllm:request_success_total", "vllm:prompt_tokens_total")
    before = sum_metric(served, *counters)
    assert wait_until(lambda: sum_metric(served, *counters) > before, PROBED_WITHIN_S), served.text()


def end(served: harness.Serving) -> None:
    """No incident, exit 0, nothing left."""
    assert not [*served.home.glob("incidents/*")]
    assert served.end() == 0
    assert served.wait_gone() == {}


@pytest.mark.timeout(600)
def test_draft_model_and_adapter(tmp_path: Path) -> None:
    """Both by id, from the folders that `weights` fills: ready, drafts are made, the adapter answers otherwise."""
    shape = Shape(heads=8, kv_heads=8, layers=4)
    model = write_standin(tmp_path / "my models" / "base", shape)
    write_standin(model.parent / "owner--draft", Shape(heads=4, kv_heads=4, layers=1), seed=1)
    write_adapter(model.parent / "owner--adapter", shape)
    speculative = "speculative_config: {model: owner/draft, num_speculative_tokens: 2}"
    launch = write_launch(
        tmp_path, model, f", max_model_len: 512, enable_lora: true, {speculative}",
        "lora_modules: [{name: mine, path: owner/adapter}]",
    )  # fmt: skip
    with harness.serving(tmp_path / "home", str(launch)) as served:
        served.wait_ready()
        asked = {
            name: harness.run("ask", "Hello", "--max-tokens", "12", "--model", name, home=served.home)
            for name in (str(model), "mine", "other")
        }
        assert [done.returncode for done in asked.values()] == [0, 0, 1]
        assert asked[str(model)].stdout != asked["mine"].stdout
        assert "mine" in asked["other"].stderr
        assert sum_metric(served, "vllm:spec_decode_num_draft_tokens_total") > 0
        wait_for_probe(served)
        end(served)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("classifies", [False, True])
def test_encoders(tmp_path: Path, tiny_llama: Path, classifies: bool) -> None:
    """Ready and probed by its own API, and by the printed curl line; `ask` and `bench` say why it does not chat."""
    model = write_encoder(tmp_path / "model", tiny_llama, classifies=classifies)
    with harness.serving(tmp_path / "home", str(write_launch(tmp_path, model)), **KEY) as served:
        served.wait_ready()
        (curl,) = re.findall(r"^  (curl .*)$", served.text(), re.MULTILINE)
        tried = subprocess.run(["bash", "-c", curl], env=os.environ | KEY, capture_output=True, text=True, check=True)
        (found,) = json.loads(tried.stdout)["data"]
        if classifies:
            assert found["label"] == "LABEL_0"
        else:
            assert len(found["embedding"]) == 64
            import openai

            client = openai.OpenAI(base_url=f"{served.url}/v1", api_key=KEY["RAYLAUNCH_SERVER__API_KEY"])
            assert len(client.embeddings.create(model=str(model), input=["Hello", "World"]).data) == 2
        assert not re.search("^KV cache", served.text(), re.MULTILINE)
        for words in (["ask", "Hello"], ["bench", "--no-sample", "-n", "4", "-o", str(tmp_path / "bench.json")]):
            done = harness.run(*words, home=served.home, **KEY)
            assert done.returncode == 1
            assert "embed" in done.stderr
        wait_for_probe(served)
        end(served)
