"""What vLLM itself says of layouts, in place of the formulas (engine/ask_layout.py is the child)."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any

from pydantic import JsonValue, TypeAdapter, ValidationError

from raylaunch.base import console, versions
from raylaunch.base.errors import EngineError
from raylaunch.node.script import run_script
from raylaunch.plan.gpus import GIB
from raylaunch.plan.layout import Layout, Planner
from raylaunch.plan.overhead import Range
from raylaunch.plan.wire import place_stages

SOURCE = "vLLM asked"
_ASKED_AT_MOST = 4
_LIMIT_S = 300.0
"""vLLM's import takes 7 s, a minute from a cold disk; a layout 0.1 to 3 s."""
_PASSED_ON = ("kv_cache_dtype", "quantization", "block_size")


@dataclass(frozen=True, slots=True)
class AskedLayout:
    """vLLM's answer for a layout."""

    weights: list[int]
    """Bytes on a rank of each stage."""
    tokens: list[int]
    """At the low and the high end of the range."""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Asked:
    """vLLM's answers."""

    vllm: str
    seconds: float
    layouts: list[AskedLayout]


def ask_about(
    planner: Planner,
    layouts: Sequence[Layout],
    config: JsonValue,
    engine: Mapping[str, Any],
    ask: Callable[[str], str],
) -> list[Layout]:
    """The layouts, of which the first that fit and the launch's own have vLLM's figures.

    One that vLLM cannot build there (a quantization without a CPU kernel, for one) keeps those of the formulas.

    Args:
        ask: takes a question and returns the child's answer, both JSON.

    Raises:
        EngineError: the child process fails.
    """
    chosen = [at for at in layouts if at.fits and not at.is_partitioned and at.source == "formulas"]
    chosen = [at for at in chosen if at.is_named or at in chosen[:_ASKED_AT_MOST]]
    if not chosen:
        return list(layouts)
    run = chosen[0].run
    options = {name: engine[name] for name in _PASSED_ON if engine.get(name) is not None} | {
        "max_model_len": chosen[0].max_model_len,
        "dtype": chosen[0].dtype,
        "max_num_batched_tokens": max(run.max_num_batched_tokens, run.max_num_seqs),
        "max_num_seqs": run.max_num_seqs,
    }
    asked = [{"tp": at.tp, "pp": at.pp, "budgets": list_budgets(planner, at)} for at in chosen]
    answer = ask(json.dumps({"config": config, "engine": options, "layouts": asked}))
    try:
        read = TypeAdapter(Asked).validate_json(answer)
    except ValidationError:
        raise EngineError("--ask-vllm: no usable answer", fix="plan without it", excerpt=[answer[-300:]]) from None
    found: dict[Layout, Layout] = {}
    for layout, of_layout in zip(chosen, read.layouts, strict=True):
        if of_layout.error:
            console.say(f"vLLM cannot build TP={layout.tp} x PP={layout.pp} there: {of_layout.error}", style="yellow")
        else:
            found[layout] = _take_answer(layout, of_layout)
    console.say(f"asked vLLM {read.vllm} about {len(found)} layouts: {read.seconds:.1f} s")
    return [found.get(layout, layout) for layout in layouts]


def ask_installed(question: str) -> str:
    """The answer of the vLLM that is installed here.

    Raises:
        EngineError: there is none, or the child process fails.
    """
    if versions.find_version("vllm") is None:
        raise EngineError(
            "--ask-vllm: no vLLM is installed here",
            fix="add --cluster CLUSTER.yaml to ask its image, or plan without it",
        )
    return ask_by(run_script, question)


def ask_by(run: Callable[[str, str, float], tuple[str, str]], question: str) -> str:
    """The child's answer to a question.

    Args:
        run: runs a Python program as node/script.py does, wherever vLLM is.

    Raises:
        EngineError: the child process fails.
    """
    source = files("raylaunch.engine").joinpath("ask_layout.py").read_text(encoding="utf-8")
    answer, error = run(source, question, _LIMIT_S)
    if error:
        raise EngineError("--ask-vllm: vLLM failed", fix="plan without it", excerpt=error.splitlines()[-8:])
    return answer


def list_budgets(planner: Planner, layout: Layout) -> list[list[int]]:
    """Bytes of each stage that weights and KV cache share, at the low and the high end."""
    settings = planner.settings
    stages = place_stages(planner.fleet, layout.tp, layout.pp, across=True) or []
    totals = [math.ceil(stage.kind.memory_gib * GIB * settings.gpu_memory_utilization) for stage in stages]
    return [[int(total - beside) for total in totals] for beside in (layout.overhead.high, layout.overhead.low)]


def _take_answer(layout: Layout, answer: AskedLayout) -> Layout:
    """The layout with vLLM's weights and tokens; KV bytes move as the heaviest stage does."""
    shift = max(layout.weights) - max(answer.weights)
    low, high = (count * layout.replicas for count in answer.tokens)
    per_request = layout.requests.high / layout.tokens.high if layout.tokens.high else 0.0
    return replace(
        layout,
        weights=tuple(answer.weights),
        kv_cache=Range(layout.kv_cache.low + shift, layout.kv_cache.high + shift),
        tokens=Range(low, high),
        requests=Range(low * per_request, high * per_request),
        source=SOURCE,
    )
