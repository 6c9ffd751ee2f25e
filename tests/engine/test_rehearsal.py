"""What a rehearsal satisfies of a launch, and what it leaves out and names."""

from pathlib import Path

import pytest

from raylaunch.config import launch_file
from raylaunch.engine.rehearsal import left_out, plan, standin_model
from raylaunch.engine.rehearsal.left_out import list_left_out
from tests.config import launches

REFERENCE = Path(__file__).parents[2] / "configs" / "deepseek-r1-70b.yaml"


@pytest.mark.parametrize(
    ("sets", "keys"),
    [
        ([], []),
        (["engine.enable_expert_parallel=true"], ["engine.enable_expert_parallel"]),
        (
            ["engine.config_format=mistral", "engine.tokenizer_mode=mistral"],
            ["engine.config_format", "engine.tokenizer_mode"],
        ),
        (
            ["engine.quantization=awq_marlin", "engine.kv_cache_dtype=fp8"],
            ["engine.quantization", "engine.kv_cache_dtype"],
        ),
        (["engine.speculative_config.method=ngram"], ["engine.speculative_config"]),
        (["engine.hf_overrides.num_hidden_layers=4"], ["engine.hf_overrides"]),
        (["engine.generation_config=vllm"], []),
        (["engine.generation_config=/data/m"], ["engine.generation_config"]),
        (["engine.reasoning_parser=deepseek_r1"], []),
        (["engine.reasoning_parser=mistral"], ["engine.reasoning_parser"]),
        (["server.enable_auto_tool_choice=true", "server.tool_call_parser=hermes"], []),
        (
            ["server.enable_auto_tool_choice=true", "server.tool_call_parser=mistral"],
            ["server.enable_auto_tool_choice", "server.tool_call_parser"],
        ),
        (
            ["server.tool_call_parser=own", "server.tool_parser_plugin=/no/such.py"],
            ["server.tool_call_parser", "server.tool_parser_plugin"],
        ),
        (['server.lora_modules=[{"name": "a", "path": "/data/a"}]'], ["server.lora_modules"]),
        (["server.chat_template=/no/such.jinja"], ["server.chat_template"]),
        (["server.chat_template={{ messages }}"], []),
    ],
)
def test_options_that_need_the_real_model_are_left_out_and_named(
    tmp_path: Path, sets: list[str], keys: list[str]
) -> None:
    launch = launches.load(None, "model.path=/nowhere/model", *sets)
    assert [*list_left_out(launch)] == keys
    rehearsed, known = plan.make_rehearsal(launch, "cpu")
    assert not list_left_out(rehearsed)
    _, not_proved = plan.describe_proof(plan.ResolvedLaunch(rehearsed, "cpu", True, known, list_left_out(launch)))
    assert any(", ".join(keys) in line and "left out" in line for line in not_proved) == bool(keys)


def test_the_reference_launch_keeps_its_reasoning_parser() -> None:
    """Its thinking is apart from the answer, also in the rehearsal."""
    launch = launch_file.load(REFERENCE, environ={})
    assert launch.engine["reasoning_parser"] == "deepseek_r1"
    rehearsed, _ = plan.make_rehearsal(launch, "cpu")
    assert rehearsed.engine["reasoning_parser"] == "deepseek_r1"
    assert [*list_left_out(launch)] == ["engine.gpu_memory_utilization"]


def test_fallbacks_are_rehearsed_with_the_launch() -> None:
    """Each in its own layout with a stand-in of its own; the rehearsed launch itself has none to check again."""
    one_box = "fallback.layouts=[{cluster: {nodes: 1}, engine: {tensor_parallel_size: 8, pipeline_parallel_size: 1}}]"
    resolved = plan.resolve(launches.load(REFERENCE, one_box), rehearse=True)
    (other,) = resolved.fallbacks
    assert (resolved.launch.world_size, resolved.launch.fallback.layouts) == (16, ())
    assert (other.launch.tensor_parallel_size, other.launch.cluster.nodes, other.is_rehearsal) == (8, 1, True)
    assert other.launch.served_model_names == resolved.launch.served_model_names


def test_a_limit_above_the_stand_ins_length_is_lowered() -> None:
    launch = launches.load(None, "model.path=/nowhere/model", "engine.long_prefill_token_threshold=4096")
    rehearsed, _ = plan.make_rehearsal(launch, "cpu")
    assert rehearsed.engine["long_prefill_token_threshold"] == rehearsed.engine["max_model_len"]


@pytest.mark.engine
def test_vllms_parsers_take_the_stand_ins_tokenizer(tmp_path: Path) -> None:
    """Each one that is registered, or it is left out; and the left out ones would fail."""
    from vllm.reasoning import ReasoningParserManager
    from vllm.tokenizers import get_tokenizer
    from vllm.tool_parsers import ToolParserManager

    folder = standin_model.write_standin(tmp_path / "standin", standin_model.Shape(2, 1, 2))
    tokenizer = get_tokenizer(str(folder))
    refused = set()
    for manager, find in (
        (ReasoningParserManager, ReasoningParserManager.get_reasoning_parser),
        (ToolParserManager, ToolParserManager.get_tool_parser),
    ):
        for name in manager.list_registered():
            arguments = () if manager is ReasoningParserManager else ([],)
            try:
                find(name)(tokenizer, *arguments)
            except (RuntimeError, ValueError, KeyError):
                refused.add(name)
    assert refused == left_out._REASONING_PARSERS | left_out._TOOL_PARSERS
