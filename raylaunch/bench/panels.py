"""The charts of a result, for the HTML report and the PNG: over time, of latencies, over the levels of a sweep."""

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from raylaunch.bench import charts
from raylaunch.bench.charts import Series
from raylaunch.bench.connection import RequestRow
from raylaunch.bench.figures import Distribution, LevelResult, LoadSample

LOW, TALL = 130.0, 190.0
"""Heights in pixels."""
REQUESTS = "Requests"
_HUES = (215, 28, 165, 275, 340, 90, 195, 45)
"""Of nodes: each node's GPUs are shades of one hue."""
GPU_MEASURES = (
    ("use_percent", "GPU use", "%", 100.0),
    ("memory_gib", "GPU memory", "GiB", 1.0),
    ("power_w", "GPU power", "W", 1.0),
    ("temperature_c", "GPU temperature", "°C", 1.0),
)


@dataclass(frozen=True)
class Panel:
    """A chart: the inside of an <svg> of this height."""

    title: str
    inside: str
    height: float = LOW


def list_time_panels(level: LevelResult, rows: Sequence[RequestRow], width: float) -> list[Panel]:
    """All that has a time axis, from throughput to network."""
    series, duration_s = level.series, level.duration_s
    slices = [number * series.slice_s for number in range(len(series.running))]
    panels = []

    def draw(title: str, unit: str, lines: Sequence[Series], times: Sequence[float], **more: Any) -> None:
        inside = charts.draw_lines(title, unit, times, lines, duration_s=duration_s, width=width, height=LOW, **more)
        panels.append(Panel(title, inside))

    tokens = Series("output", series.output_tokens_per_s, "c0")
    draw("Throughput", "output tokens/s", [tokens], slices, fill=True, step=True)
    draw("Under way", "requests", [Series("at the client", series.running, "c0")], slices, fill=True, step=True)
    if rows:
        inside = charts.draw_requests(rows, duration_s=duration_s, width=width, height=2 * LOW)
        panels.append(Panel(REQUESTS, inside, 2 * LOW))
    samples = level.samples
    times = [sample.t_s for sample in samples]
    if any(sample.engine.running is not None for sample in samples):
        lines = [
            Series(name, [getattr(sample.engine, name) for sample in samples], colour)
            for name, colour in (("running", "c2"), ("waiting", "c1"))
        ]
        draw("Engine", "requests", lines, times)
        shares = [sample.engine.kv_cache_use for sample in samples]
        use = [None if share is None else round(share * 100, 2) for share in shares]
        draw("KV cache", "% in use", [Series("KV cache", use, "c3")], times, at_least=100.0, fill=True)
    for key, title, unit, at_least in GPU_MEASURES:
        if lines := list_gpu_series(samples, key):
            draw(title, unit, lines, times, at_least=at_least)
    for title, unit, keys, at_least in (
        ("Network", "MB/s", (("net_in_mb_s", "in"), ("net_out_mb_s", "out")), 0.1),
        ("Processors", "% of all cores", (("cpu_percent", ""),), 100.0),
    ):
        if lines := list_node_series(samples, keys):
            draw(title, unit, lines, times, at_least=at_least)
    return panels


def list_histograms(level: LevelResult, width: float) -> list[Panel]:
    """How TTFT and the gaps between tokens are spread."""
    panels = []
    for title, measured in (("Time to first token", level.ttft_ms), ("Between tokens", level.itl_ms)):
        marks = [(name, value) for name, value in (("p50", measured.p50), ("p99", measured.p99)) if value is not None]
        inside = charts.draw_histogram(title, measured.histogram, marks, width=width, height=TALL)
        panels.append(Panel(title, inside, TALL))
    return panels


def list_sweep_panels(levels: Sequence[LevelResult], width: float) -> list[Panel]:
    """Curves over the levels."""
    loads = [level.load.concurrency or level.load.rate_per_s or 0.0 for level in levels]
    over = "over requests at once" if levels[0].load.concurrency else "over requests/s"
    tokens = [Series("output tokens/s", [level.output_tokens_per_s for level in levels], "c0")]
    curves = [("Throughput", "output tokens/s", tokens)]
    for key, title in (("ttft_ms", "First token"), ("tpot_ms", "Each token"), ("e2e_ms", "Complete answer")):
        measured: list[Distribution] = [getattr(level, key) for level in levels]
        lines = [
            Series("median", [one.p50 for one in measured], "c0"),
            Series("p99", [one.p99 for one in measured], "c1"),
        ]
        curves.append((f"{title}, median and p99", "ms", lines))
    return [
        Panel(title, charts.draw_sweep(title, f"{unit} {over}", loads, lines, width=width, height=TALL), TALL)
        for title, unit, lines in curves
    ]


def list_gpu_series(samples: Sequence[LoadSample], key: str) -> list[Series]:
    """A line for each GPU of each node; none where no GPU reports it."""
    found: dict[tuple[str, int], list[float | None]] = {}
    for number, sample in enumerate(samples):
        for node in sample.nodes:
            for gpu in node.gpus:
                line = found.setdefault((node.node, gpu.gpu), [None] * len(samples))
                line[number] = getattr(gpu, key)
    nodes = sorted({node for node, _ in found})
    return [
        Series(f"{node} #{gpu}" if len(nodes) > 1 else f"#{gpu}", values, find_colour(nodes.index(node), gpu))
        for (node, gpu), values in sorted(found.items())
        if any(value is not None for value in values)
    ]


def list_node_series(samples: Sequence[LoadSample], keys: Sequence[tuple[str, str]]) -> list[Series]:
    """Lines of each node."""
    nodes = sorted({node.node for sample in samples for node in sample.nodes})
    lines = []
    for number, name in enumerate(nodes):
        for shade, (key, word) in enumerate(keys):
            values = [
                next((getattr(node, key) for node in sample.nodes if node.node == name), None) for sample in samples
            ]
            if any(value is not None for value in values):
                colour = find_colour(number, 4 * shade) if len(nodes) > 1 else f"c{2 * shade}"
                lines.append(Series(f"{name} {word}".strip(), values, colour))
    return lines


def find_colour(node: int, gpu: int) -> str:
    """A node's hue, a GPU's shade of it."""
    lightness = 0.36 + 0.34 * (gpu % 8) / 7
    red, green, blue = colorsys.hls_to_rgb(_HUES[node % len(_HUES)] / 360, lightness, 0.62)
    return f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"
