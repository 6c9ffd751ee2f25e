"""The report's charts over time, from throughput to network: all on one axis."""

import colorsys
from collections.abc import Sequence
from typing import Any

from raylaunch.bench import charts
from raylaunch.bench.charts import Series
from raylaunch.bench.connection import RequestRow
from raylaunch.bench.figures import LevelResult, LoadSample

WIDTH = 1080.0
_HUES = (215, 28, 165, 275, 340, 90, 195, 45)
"""Of nodes: each node's GPUs are shades of one hue."""
BARS_LEGEND = (
    '<div class="key"><span><i style="background:var(--c1)"></i>waits for its first token</span>'
    '<span><i style="background:var(--c0)"></i>is answered</span>'
    '<span><i style="background:var(--bad)"></i>failed</span></div>'
)
GPU_MEASURES = (
    ("use_percent", "GPU use", "%", 100.0),
    ("memory_gib", "GPU memory", "GiB", 1.0),
    ("power_w", "GPU power", "W", 1.0),
    ("temperature_c", "GPU temperature", "°C", 1.0),
)


def wrap_svg(inside: str, width: float, height: float) -> str:
    """A drawing as an element that scales."""
    return f'<svg viewBox="0 0 {width:g} {height:g}" role="img">{inside}</svg>'


def draw_time_panels(level: LevelResult, rows: Sequence[RequestRow]) -> list[str]:
    """All that has a time axis, from throughput to network."""
    series, duration_s = level.series, level.duration_s
    slices = [number * series.slice_s for number in range(len(series.running))]
    panels = []

    def add(inside: str, height: float = 130.0, *, legend: bool = True) -> None:
        panels.append(wrap_svg(inside, WIDTH, height) + ('<div class="legend"></div>' if legend else ""))

    def draw(title: str, unit: str, lines: Sequence[Series], times: Sequence[float], **more: Any) -> None:
        add(charts.draw_lines(title, unit, times, lines, duration_s=duration_s, width=WIDTH, **more))

    tokens = Series("output", series.output_tokens_per_s, "c0")
    draw("Throughput", "output tokens/s", [tokens], slices, fill=True, step=True)
    draw("Under way", "requests", [Series("at the client", series.running, "c0")], slices, fill=True, step=True)
    if rows:
        add(charts.draw_requests(rows, duration_s=duration_s, width=WIDTH), 260.0, legend=False)
        panels[-1] += BARS_LEGEND
    samples = level.samples
    times = [sample.t_s for sample in samples]
    if any(sample.engine.running is not None for sample in samples):
        lines = [
            Series(name, [getattr(sample.engine, name) for sample in samples], colour)
            for name, colour in (("running", "c2"), ("waiting", "c1"))
        ]
        draw("Engine", "requests", lines, times)
        use = [_percent(sample.engine.kv_cache_use) for sample in samples]
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


def _percent(share: float | None) -> float | None:
    return None if share is None else round(share * 100, 2)


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
