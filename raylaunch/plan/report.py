"""A plan as text within 80 columns, as JSON, and as a launch file."""

import json
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass

from raylaunch.plan.gpus import GIB, Fleet, describe_gpus
from raylaunch.plan.layout import Layout
from raylaunch.plan.layouts import explain_first
from raylaunch.plan.overhead import Range
from raylaunch.plan.settings import PARTITION
from raylaunch.plan.shape import ModelShape

_WIDTH = 80
_COLUMNS = (" TPxPPxR", "dtype/KV", "weights", "overh.", "KV GiB", "tokens", "requ.", "wire", "lost")
_CHOSEN = (
    *("tensor_parallel_size", "pipeline_parallel_size", "dtype", "kv_cache_dtype", "max_model_len"),
    *("gpu_memory_utilization", "distributed_executor_backend"),
)
"""Options of the engine that a layout decides, or that are one default."""
_SHORT = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32", "fp8_e4m3": "fp8", "fp8_e5m2": "fp8"}
_WORTH_A_LINE = 0.05
_SHOWN = 12
"""Rows of the table; --json has all."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The layouts of a model on a fleet, best first."""

    name: str
    shape: ModelShape
    weights_bytes: int
    """Of the complete model."""
    fleet: Fleet
    layouts: tuple[Layout, ...]

    @property
    def named(self) -> Layout | None:
        """The layout of the launch file."""
        return next((layout for layout in self.layouts if layout.is_named), None)


def to_json(plan: Plan) -> dict[str, object]:
    """The plan for --json; sizes in GiB of the heaviest or deciding rank, ranges as [low, high]."""
    return {
        "model": plan.name,
        "gpus": describe_gpus(plan.fleet.machines),
        "link_rates": plan.fleet.link_source,
        "reason": explain_first(list(plan.layouts)),
        "layouts": [_dump(plan, layout) for layout in plan.layouts],
    }


def _dump(plan: Plan, layout: Layout) -> dict[str, object]:
    return {
        "tensor_parallel_size": layout.tp,
        "pipeline_parallel_size": layout.pp,
        "replicas": layout.replicas,
        "dtype": layout.dtype,
        "kv_cache_dtype": layout.kv_dtype,
        "quantization": plan.shape.quantization.method or None,
        "named": layout.is_named,
        "fits": layout.fits,
        "reason": "; ".join(layout.refusals) or ("fits" if layout.surely_fits else "fits if overhead is low"),
        "warnings": list(layout.warnings),
        "source": layout.source,
        "layers": list(layout.sizes),
        "weights_gib": round(max(layout.weights) / GIB, 3),
        "heaviest_stage": layout.heaviest,
        "overhead_gib": Range(layout.overhead.low / GIB, layout.overhead.high / GIB).to_list(3),
        "kv_cache_gib": Range(max(0, layout.kv_cache.low) / GIB, max(0, layout.kv_cache.high) / GIB).to_list(3),
        "kv_cache_tokens": [int(layout.tokens.low), int(layout.tokens.high)],
        "requests": layout.requests.to_list(2),
        "context": layout.context,
        "max_model_len": layout.max_model_len,
        "longest_request": layout.longest,
        "prefill_wire_s": round(layout.wire.prefill_s, 5),
        "decode_wire_s": round(layout.wire.decode_s, 6),
        "slowest_link_gb_s": round(layout.wire.rate / 1e9, 3),
        "lost_machine": layout.lost,
        "max_num_batched_tokens": layout.run.max_num_batched_tokens,
        "max_num_seqs": layout.run.max_num_seqs,
    }


def to_lines(plan: Plan) -> list[str]:
    """The plan as a table and notes, best layout first; * marks the launch file's own."""
    shown = [layout for at, layout in enumerate(plan.layouts) if at < _SHOWN or layout.is_named]
    fitting = [layout for layout in shown if layout.fits]
    first = plan.layouts[0]
    lines = [
        *textwrap.wrap(f"{plan.name} on {plan.fleet.describe()}: weights {plan.weights_bytes / GIB:.2f} GiB", _WIDTH),
        f"GiB of one GPU; requests of {first.context:,} tokens at once",
        *_wrap(f"source: {_name_sources(fitting or shown)}"),
        "wire: a prefill chunk / a decode step; lost: replicas lost with one machine",
    ]
    rows = [_COLUMNS, *(_make_row(layout) for layout in fitting)]
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    if fitting:
        table = (" ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
        lines += [line.rstrip() for line in table]
    for layout in shown:
        if not layout.fits:
            mark = "* " if layout.is_named else ""
            lines += _wrap(f"{mark}{_size(layout)} does not fit: {layout.refusals[0]}")
    lines += _wrap(explain_first(list(plan.layouts)))
    for layout in dict.fromkeys((first, plan.named or first)):
        if layout.fits:
            lines += _list_notes(layout, plan.fleet.link_source)
    return lines


def _name_sources(layouts: list[Layout]) -> str:
    """The rows' sources in the table's order, each with its rows where there are several."""
    rows: dict[str, list[str]] = {}
    for layout in layouts:
        rows.setdefault(layout.source, []).append(_size(layout))
    if len(rows) == 1:
        return next(iter(rows))
    fewest = sorted(rows, key=lambda source: source == "formulas")
    return "; ".join(f"{source}: {', '.join(rows[source])}" for source in fewest[:-1]) + f"; else {fewest[-1]}"


def _list_notes(layout: Layout, link_source: str) -> list[str]:
    size, rate = _size(layout), f"{layout.wire.rate / 1e9:.3g} GB/s ({link_source})" if layout.wire.rate else "none"
    notes = [f"{size}: stage {layout.heaviest} is heaviest; slowest link {rate}"]
    if layout.overhead.first_start > _WORTH_A_LINE * max(0.0, layout.kv_cache.high):
        notes.append(
            f"{size}: the low ends are a first start, while torch.compile has no cache; a later one may have up to "
            f"{layout.overhead.first_start / GIB:.1f} GiB more KV cache a GPU"
        )
    if layout.is_partitioned:
        notes.append(f"{size} needs {PARTITION}={','.join(map(str, layout.sizes))} in serve's environment")
    notes += [f"warning: {size}: {warning}" for warning in layout.warnings]
    return [line for note in notes for line in _wrap(note)]


def _wrap(line: str) -> list[str]:
    return textwrap.wrap(line, _WIDTH, subsequent_indent="    ")


def _size(layout: Layout) -> str:
    return f"{layout.tp}x{layout.pp}x{layout.replicas}"


def _make_row(layout: Layout) -> tuple[str, ...]:
    return (
        f"{'*' if layout.is_named else ' '}{_size(layout)}",
        f"{_SHORT.get(layout.dtype, layout.dtype)}/{_SHORT.get(layout.kv_dtype, layout.kv_dtype)}",
        f"{max(layout.weights) / GIB:.2f}",
        _span(layout.overhead, 1 / GIB, ".1f"),
        _span(Range(max(0, layout.kv_cache.low), max(0, layout.kv_cache.high)), 1 / GIB, ".1f"),
        _span_tokens(layout.tokens),
        _span(layout.requests, 1, ".0f" if layout.requests.high >= 10 else ".1f"),
        f"{_seconds(layout.wire.prefill_s)}/{_seconds(layout.wire.decode_s)}",
        layout.lost,
    )


def _span(value: Range, factor: float, form: str) -> str:
    if value.high * factor >= 1000 and factor == 1:
        return f"{value.low / 1000:.1f}-{value.high / 1000:.1f}k"
    form = ".0f" if value.high * factor >= 100 else form
    return f"{value.low * factor:{form}}-{value.high * factor:{form}}"


def _span_tokens(value: Range) -> str:
    if value.high >= 10e6:
        return f"{value.low / 1e6:.0f}-{value.high / 1e6:.0f}M"
    return f"{value.low / 1000:.0f}-{value.high / 1000:.0f}k" if value.high >= 10_000 else _span(value, 1, ".0f")


def _seconds(value: float) -> str:
    return f"{value:.1f}s" if value >= 0.95 else f"{value * 1000:.0f}ms" if value >= 0.00095 else "0"


def describe_arithmetic(plan: Plan, layout: Layout) -> list[str]:
    """What fits, as sentences: for a launch file's comments."""
    low, high = layout.overhead.low / GIB, layout.overhead.high / GIB
    kind = min((machine.kind for machine in plan.fleet.machines), key=lambda found: found.memory_gib)
    return [
        f"On {plan.fleet.describe()}.",
        f"Weights: {plan.weights_bytes / GIB:.2f} GiB in all, {max(layout.weights) / GIB:.2f} GiB on each GPU of stage "
        f"{layout.heaviest}, the heaviest.",
        f"KV cache: {kind.memory_gib:.2f} GiB x utilization - weights - {low:.2f} to {high:.2f} GiB overhead = "
        f"{max(0, layout.kv_cache.low) / GIB:.2f} to {max(0, layout.kv_cache.high) / GIB:.2f} GiB on a GPU, "
        f"{int(layout.tokens.low):,} to {int(layout.tokens.high):,} tokens.",
        f"Requests of {layout.context:,} tokens at once: {layout.requests.low:.1f} to {layout.requests.high:.1f}.",
    ]


def to_launch_text(
    plan: Plan, layout: Layout, repo: str | None, path: str | None, utilization: float, engine: Mapping[str, object]
) -> str:
    """A launch file for a layout on machines with equally many GPUs, the arithmetic as comments.

    Args:
        engine: the options that the planned launch sets; those that the layout does not are kept.
    """
    comments = [line for sentence in describe_arithmetic(plan, layout) for line in textwrap.wrap(sentence, 110)]
    length = _choose_length(layout)
    if length < layout.max_model_len:
        comments.append(f"max_model_len is what surely fits; {layout.max_model_len:,} were asked for, and may fit.")
    machines, per_machine, replicas = _share_machines(plan.fleet, layout)
    lines = [
        *(f"# {line}" for line in comments),
        *(
            [f"# {layout.replicas} replicas: start one for each, on GPUs of its own."]
            if replicas != layout.replicas
            else []
        ),
        *([f"# Start it with {PARTITION}={','.join(map(str, layout.sizes))} set."] if layout.is_partitioned else []),
        "model:",
        *([f"  repo: {_quote(repo)}"] if repo else []),
        *([f"  path: {_quote(path)}"] if path else []),
        "cluster:",
        f"  nodes: {machines}",
        f"  gpus_per_node: {per_machine}",
        *([f"  replicas: {replicas}"] if replicas > 1 else []),
        "engine:",
        f"  tensor_parallel_size: {layout.tp}",
        f"  pipeline_parallel_size: {layout.pp}",
        f"  dtype: {layout.dtype}",
        *([f"  kv_cache_dtype: {layout.kv_dtype}"] if layout.kv_dtype != layout.dtype else []),
        f"  max_model_len: {length}",
        f"  gpu_memory_utilization: {utilization:g}",
        *(f"  {name}: {json.dumps(value)}" for name, value in engine.items() if name not in _CHOSEN),
    ]
    return "\n".join(lines) + "\n"


def _share_machines(fleet: Fleet, layout: Layout) -> tuple[int, int, int]:
    """Machines and GPUs of each in the launch file, and its replicas: 1 where they cannot be of one launch."""
    machines, gpus, world = len(fleet.machines), fleet.machines[0].gpus, layout.tp * layout.pp
    if gpus % world == 0 or (world % gpus == 0 and machines % (world // gpus) == 0):
        return machines, gpus, layout.replicas
    return max(1, -(-machines // layout.replicas)), min(gpus, world), 1


def _choose_length(layout: Layout) -> int:
    """max_model_len, shortened where a request of it may not fit."""
    sure = int(layout.tokens.low / layout.replicas) // 1024 * 1024
    return min(layout.max_model_len, sure) if sure > 0 else layout.max_model_len


def _quote(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
