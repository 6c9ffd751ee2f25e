"""The HTML report of a result: one file, no network; drawn here, with a small script that reads values off."""

import importlib.resources
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from raylaunch.base.errors import BenchError
from raylaunch.bench.connection import RequestRow
from raylaunch.bench.figures import BenchResult, LevelResult
from raylaunch.bench.panels import REQUESTS, Panel, list_histograms, list_sweep_panels, list_time_panels
from raylaunch.bench.result import read_result, read_rows
from raylaunch.bench.summary import MEASURES, describe_limits

WIDTH, HALF = 1080.0, 520.0
BARS_LEGEND = (
    '<div class="key"><span><i style="background:var(--c1)"></i>waits for its first token</span>'
    '<span><i style="background:var(--c0)"></i>is answered</span>'
    '<span><i style="background:var(--bad)"></i>failed</span></div>'
)
LINES_LEGEND = '<div class="legend"></div>'
"""report.js fills it."""
SWEEP_LEGEND = (
    '<div class="key"><span><i style="background:var(--c0)"></i>median</span>'
    '<span><i style="background:var(--c1)"></i>p99</span></div>'
)


def write_report(result_path: Path, target: Path) -> Path:
    """Draw the report of a result file and its rows.

    Raises:
        BenchError: one of them cannot be read, or `target` not be written.
    """
    result, rows = read_result(result_path), read_rows(result_path)
    try:
        target.write_text(make_report(result, rows), encoding="utf-8")
    except OSError as error:
        raise BenchError(f"{target} cannot be written: {error.strerror}", fix="name another with --html") from error
    return target


def make_report(result: BenchResult, rows: Mapping[int, Sequence[RequestRow]]) -> str:
    """The report's text."""
    folder = importlib.resources.files("raylaunch.bench")
    style, script = ((folder / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    levels = result.levels
    title = f"{result.server.model}: load test"
    tabs = ""
    if len(levels) > 1:
        buttons = "".join(f'<button role="tab">{escape(level.load.describe())}</button>' for level in levels)
        tabs = f'{make_sweep(levels)}<nav role="tablist" aria-label="Levels">{buttons}</nav>'
    sections = "".join(make_level(level, rows.get(number, [])) for number, level in enumerate(levels))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><style>{style}</style></head><body><main>{make_head(result)}{tabs}{sections}'
        f"{make_facts(result)}</main><script>{script}</script></body></html>\n"
    )


def make_head(result: BenchResult) -> str:
    """Model, server, and whether the figures hold."""
    valid = result.valid
    badge = f'<span class="badge {"good" if valid else "bad"}">{"valid" if valid else "INVALID"}</span>'
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in result.invalid_because)
    server = result.server
    version = f", vLLM {server.version}" if server.version else ""
    when = result.made_at.replace("T", " ").removesuffix("Z")
    return (
        f'<header><div><h1>{escape(server.model)}</h1><div class="soft">{escape(server.url)}{escape(version)} · '
        f"{escape(when)} UTC · {escape(describe_machines(result))}</div>"
        f"</div>{badge}</header>" + (f'<ul class="reasons">{reasons}</ul>' if reasons else "")
    )


def describe_machines(result: BenchResult) -> str:
    """The GPUs of all nodes, or their cores: "2 nodes, 16 x NVIDIA L4"."""
    nodes = result.nodes
    if not nodes:
        return f"machines not sampled: {result.sampling_problem}"
    gpus = [gpu.name for node in nodes.values() for gpu in node.gpus]
    kinds = ", ".join(f"{gpus.count(name)} x {name}" for name in sorted(set(gpus)))
    count = "1 node" if len(nodes) == 1 else f"{len(nodes)} nodes"
    return f"{count}, {kinds or str(sum(node.cores for node in nodes.values())) + ' cores, no GPU'}"


def list_tiles(level: LevelResult) -> list[tuple[str, str, str]]:
    """Value, unit and name of the figures that matter most."""

    def ms(key: str, percentile: str) -> str:
        value = getattr(getattr(level, key), percentile)
        return "–" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:,.1f}"

    tiles = [
        (f"{level.output_tokens_per_s:,.0f}", "tokens/s", "output"),
        (f"{level.requests_per_s:,.2f}", "/s", "requests"),
        (ms("ttft_ms", "p50"), "ms", "first token, median"),
        (ms("ttft_ms", "p99"), "ms", "first token, p99"),
        (ms("tpot_ms", "p50"), "ms", "each token, median"),
        (ms("e2e_ms", "p50"), "ms", "end to end, median"),
        (f"{level.requests_ok:,}", f"in {level.duration_s:,.1f} s", "requests answered"),
    ]
    if level.requests_failed:
        tiles.append((f"{level.requests_failed:,}", "", "FAILED"))
    if goodput := level.goodput:
        tiles.append(
            (f"{goodput.requests_per_s:,.2f}", f"/s, {goodput.share:.0%}", f"goodput: {describe_limits(goodput)}")
        )
    return tiles


def _wrap(panel: Panel, width: float) -> str:
    """A chart as an element that scales."""
    return f'<svg viewBox="0 0 {width:g} {panel.height:g}" role="img">{panel.inside}</svg>'


def make_level(level: LevelResult, rows: Sequence[RequestRow]) -> str:
    """Everything about one level."""
    tiles = "".join(
        f'<div><b>{value}<small>{escape(unit)}</small></b><span class="soft small">{escape(name)}</span></div>'
        for value, unit, name in list_tiles(level)
    )
    time_panels = "".join(
        f'<div class="panel time">{_wrap(panel, WIDTH)}{BARS_LEGEND if panel.title == REQUESTS else LINES_LEGEND}</div>'
        for panel in list_time_panels(level, rows, WIDTH)
    )
    histograms = "".join(f"<div>{_wrap(panel, HALF)}</div>" for panel in list_histograms(level, HALF))
    return (
        f'<div class="level" data-duration="{level.duration_s}"><div class="tiles">{tiles}</div>'
        f'<section><h2>Over time</h2><div class="scroll">{time_panels}</div></section>'
        f'<section><h2>Latency</h2><div class="two">{histograms}</div>{make_table(level)}</section>'
        f"{make_errors(level)}{make_client(level)}</div>"
    )


def make_table(level: LevelResult) -> str:
    """Percentiles."""
    columns = ("mean", "p50", "p90", "p95", "p99", "max")
    head = "".join(f"<th>{name}</th>" for name in columns)
    body = "".join(
        f"<tr><td>{escape(name)}</td>"
        + "".join(f"<td>{getattr(getattr(level, key), column):,.1f}</td>" for column in columns)
        + "</tr>"
        for key, name in MEASURES
        if getattr(level, key).count
    )
    return f'<div class="scroll"><table><tr><th>ms</th>{head}</tr>{body}</table></div>'


def make_errors(level: LevelResult) -> str:
    """Failures by kind."""
    if not level.errors:
        return ""
    body = "".join(
        f'<tr><td>{escape(kind)}</td><td>{entry.count:,}</td><td class="words">{escape(entry.said)}</td></tr>'
        for kind, entry in level.errors.items()
    )
    head = '<th>kind</th><th>requests</th><th style="text-align:left">first message</th>'
    return f"<section><h2>Failures</h2><table><tr>{head}</tr>{body}</table></section>"


def make_client(level: LevelResult) -> str:
    """How loaded the client was: whether to trust the result."""
    client = level.client
    body = "".join(
        f"<tr><td>{number}: {escape(shard.node)}</td><td>{shard.cpu_s:.2f} s</td>"
        f"<td>{shard.cpu_share:.0%}</td><td>{shard.max_loop_lag_ms:.1f} ms</td><td>{shard.reads:,}</td></tr>"
        for number, shard in enumerate(client.shards)
    )
    names = ("shard", "CPU", "of a core", "longest turn", "reads")
    head = "".join(f"<th>{name}</th>" for name in names)
    return (
        f'<section><h2>The client itself</h2><div class="scroll"><table><tr>{head}</tr>{body}</table></div></section>'
    )


def make_sweep(levels: Sequence[LevelResult]) -> str:
    """Curves over the levels."""
    drawn = "".join(f"<div>{_wrap(panel, HALF)}</div>" for panel in list_sweep_panels(levels, HALF))
    return f'<section><h2>Sweep</h2><div class="two">{drawn}</div>{SWEEP_LEGEND}</section>'


def make_facts(result: BenchResult) -> str:
    """What was asked of what, with which versions."""
    asked, versions = result.asked, result.versions
    how = f"{asked.api}, {'streaming' if asked.stream else 'complete answers'}"
    longest = f"{'exactly' if asked.exact_tokens else 'at most'} {asked.max_tokens} tokens"
    if own := asked.own_output_tokens:
        longest = f"{own[0]} to {own[1]} tokens, as in its file"
    facts = {
        "asked": f"{how}, {longest}; {asked.prompts} ({asked.distinct_prompts} distinct)",
        "tokens": f"counted by {'the server' if result.levels[-1].tokens_counted_by == 'usage' else 'output events'}",
        "launch file": (result.launch or {}).get("path") or "none given",
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items() if version),
    } | {
        f"node {ip}": f"{node.hostname}, {node.cores} cores, {node.ram_gib or 0:.0f} GiB"
        + (f", {len(node.gpus)} x {node.gpus[0].name}" if node.gpus else ", no GPU")
        for ip, node in result.nodes.items()
    }
    body = "".join(
        f'<tr><td class="soft">{escape(k)}</td><td class="words">{escape(v)}</td></tr>' for k, v in facts.items()
    )
    return f"<section><h2>Facts</h2><table>{body}</table></section>"
