"""Charts as SVG text, for the HTML report and the PNG alike. Colours are classes: report.css and card.py give them.

Each function returns the inside of an <svg> of the size it was given; coordinates are pixels.

Why no chart library: a browser's (uPlot 1.6.32, 53 kB) draws on a canvas, so the PNG would need all of this module
again, and only the 60 lines of report.js that read values off would go; one for both (matplotlib) is a wheel of 8.7 MB
with 33 MB of dependencies, where resvg is 1.4 MB.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from raylaunch.bench.connection import RequestRow

LEFT, RIGHT, TOP, BOTTOM = 58.0, 12.0, 26.0, 20.0
"""Margins around what is drawn: the value axis, air, the title line, the time axis."""
MAX_BARS = 4000


@dataclass(frozen=True)
class Series:
    """A line."""

    name: str
    values: Sequence[float | None]
    """None leaves a gap."""
    colour: str
    """A class (c0 to c7) or a colour (#rrggbb)."""


def find_ticks(top: float, wanted: int = 4) -> list[float]:
    """Round values from 0 to at least `top`, about `wanted` steps of 1, 2 or 5 x 10^n."""
    if top <= 0:
        return [0.0, 1.0]
    raw = top / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= raw * 0.999)
    return [number * step for number in range(math.ceil(top / step - 1e-9) + 1)]


def write_number(value: float) -> str:
    """A number for an axis: 0.25, 12, 1.5k, 2M."""
    for limit, suffix in ((1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (1e3 if suffix == 'k' else limit):.4g}{suffix}"
    return f"{value:.4g}"


def _paint(colour: str, kind: str) -> str:
    return f'{kind}="{colour}"' if colour.startswith("#") else f'class="{kind}-{colour}"'


def _text(x: float, y: float, text: str, kind: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


@dataclass(frozen=True)
class Frame:
    """The box of a chart, and where values come to lie in it."""

    width: float
    height: float
    x_top: float
    y_top: float
    bottom: float = BOTTOM

    @property
    def plot_width(self) -> float:
        """Of what is drawn."""
        return self.width - LEFT - RIGHT

    @property
    def plot_height(self) -> float:
        """Of what is drawn."""
        return self.height - TOP - self.bottom

    def x(self, value: float) -> float:
        """Of a value on the horizontal axis."""
        return LEFT + self.plot_width * value / self.x_top

    def y(self, value: float) -> float:
        """Of a value on the vertical axis."""
        return TOP + self.plot_height * (1 - value / self.y_top)

    def draw_value_axis(self, ticks: Sequence[float]) -> str:
        """Grid lines with their values."""
        return "".join(
            _line(LEFT, self.y(tick), self.width - RIGHT, self.y(tick), "grid" if tick else "axis")
            + _text(LEFT - 8, self.y(tick) + 4, write_number(tick), "tick", "end")
            for tick in ticks
        )

    def draw_time_axis(self) -> str:
        """Seconds."""
        ticks = [tick for tick in find_ticks(self.x_top, 8) if tick <= self.x_top]
        return "".join(
            _line(self.x(tick), self.height - self.bottom, self.x(tick), self.height - self.bottom + 4, "axis")
            + _text(self.x(tick), self.height - 4, f"{write_number(tick)} s", "tick", "middle")
            for tick in ticks
        )


def draw_title(title: str, unit: str) -> str:
    """A chart's name and what its values are."""
    return (
        f'<text x="{LEFT}" y="15" class="title">{escape(title)}<tspan class="unit" dx="8">{escape(unit)}</tspan></text>'
    )


def draw_lines(
    title: str, unit: str, times_s: Sequence[float], series: Sequence[Series], *, duration_s: float, width: float,
    height: float, at_least: float = 0.0, fill: bool = False, step: bool = False,
) -> str:  # fmt: skip
    """Lines over time; the values travel along (class "hover") for the page to read off.

    Args:
        at_least: the value axis reaches this far.
        fill: paint the area under the first line.
        step: values hold for a slice of time from `times_s` on.
    """
    known = [value for one in series for value in one.values if value is not None]
    ticks = find_ticks(max([at_least, *known]), 3)
    frame = Frame(width, height, max(duration_s, 1e-3), ticks[-1])
    parts = [draw_title(title, unit), frame.draw_value_axis(ticks), frame.draw_time_axis()]
    for number, one in enumerate(series):
        path = _make_path(frame, times_s, one.values, duration_s if step else None)
        if fill and number == 0 and path:
            drawn = [time for time, value in zip(times_s, one.values, strict=True) if value is not None]
            first, last = frame.x(max(0.0, drawn[0])), frame.x(duration_s if step else min(drawn[-1], duration_s))
            floor = frame.y(0)
            area = f"{path}L{last:.1f} {floor:.1f}L{first:.1f} {floor:.1f}Z"
            parts.append(f'<path d="{area}" {_paint(one.colour, "fill")} fill-opacity="0.14" stroke="none"/>')
        parts.append(f'<path d="{path}" {_paint(one.colour, "stroke")} fill="none" stroke-width="1.6"/>')
    hover = {
        "t": [round(time, 3) for time in times_s],
        "step": step,
        "series": [{"name": one.name, "values": list(one.values), "colour": one.colour} for one in series],
    }
    parts.append(f'<desc class="hover">{escape(json.dumps(hover, separators=(",", ":")))}</desc>')
    return "".join(parts)


def _make_path(frame: Frame, times_s: Sequence[float], values: Sequence[float | None], end_s: float | None) -> str:
    path, gap = "", True
    for number, (time, value) in enumerate(zip(times_s, values, strict=True)):
        if value is None:
            gap = True
            continue
        x, y = frame.x(min(max(time, 0.0), frame.x_top)), frame.y(value)
        path += f"{'M' if gap else 'L'}{x:.1f} {y:.1f}"
        gap = False
        if end_s is not None:
            after = times_s[number + 1] if number + 1 < len(times_s) else end_s
            path += f"H{frame.x(min(after, frame.x_top)):.1f}"
    return path


def draw_requests(rows: Sequence[RequestRow], *, duration_s: float, width: float, height: float) -> str:
    """Each request as a bar: waiting for its first token, then answering; failed ones in red."""
    every = max(1, math.ceil(len(rows) / MAX_BARS))
    shown = sorted(rows, key=lambda row: row.due_s)[::every]
    lanes: list[float] = []
    placed = [(_take_lane(lanes, row), row) for row in shown]
    frame = Frame(width, height, max(duration_s, 1e-3), 1.0)
    lane_height = frame.plot_height / max(1, len(lanes))
    thick = max(0.4, min(10.0, lane_height * 0.82))
    paths = {"wait": "", "answer": "", "failed": ""}
    for lane, row in placed:
        y = TOP + lane_height * (lane + 0.5)
        begin, end = frame.x(max(0.0, row.due_s)), frame.x(min(row.end_s, frame.x_top))
        if row.error:
            paths["failed"] += f"M{begin:.1f} {y:.1f}H{max(end, begin + 1.5):.1f}"
            continue
        first = frame.x(row.arrivals[0]) if row.arrivals else end
        paths["wait"] += f"M{begin:.1f} {y:.1f}H{first:.1f}"
        if row.arrivals:
            paths["answer"] += f"M{first:.1f} {y:.1f}H{end:.1f}"
    bars = "".join(f'<path d="{path}" class="bar-{kind}" stroke-width="{thick:.2f}"/>' for kind, path in paths.items())
    note = f"each a bar; {len(lanes)} side by side" + (f"; every {every}th shown" if every > 1 else "")
    floor = _line(LEFT, height - BOTTOM, width - RIGHT, height - BOTTOM, "axis")
    return draw_title("Requests", note) + frame.draw_time_axis() + floor + bars


def _take_lane(lanes: list[float], row: RequestRow) -> int:
    """The first lane that is free when the request begins."""
    for number, free_at in enumerate(lanes):
        if free_at <= row.due_s + 1e-4:
            lanes[number] = row.end_s
            return number
    lanes.append(row.end_s)
    return len(lanes) - 1


def draw_histogram(
    title: str, buckets: Sequence[Sequence[float]], marks: Sequence[tuple[str, float]], *, width: float, height: float
) -> str:
    """Counts over a logarithmic scale of milliseconds, with percentiles marked."""
    if not buckets:
        return draw_title(title, "nothing measured")
    low, high = math.log10(buckets[0][0]), math.log10(buckets[-1][0]) + 0.05
    if high - low < 0.5:
        middle = (low + high) / 2
        low, high = middle - 0.25, middle + 0.25
    ticks = find_ticks(max(count for _, count in buckets), 3)
    frame = Frame(width, height, high - low, ticks[-1])
    parts = [draw_title(title, "ms"), frame.draw_value_axis(ticks)]
    for edge, count in buckets:
        x, right = frame.x(math.log10(edge) - low), frame.x(math.log10(edge) + 0.05 - low)
        y = min(frame.y(count), frame.y(0) - 1)
        parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(right - x - 1, 0.6):.1f}" height="{frame.y(0) - y:.1f}" '
            'class="fill-c0" rx="1"/>'
        )
    for power in range(math.floor(low), math.ceil(high) + 1):
        for digit in (1, 2, 5):
            at = power + math.log10(digit) - low
            if 0 <= at <= frame.x_top and (digit == 1 or high - low < 2.5):
                parts.append(_text(frame.x(at), height - 4, write_number(digit * 10.0**power), "tick", "middle"))
    for number, (name, value) in enumerate(marks):
        x = frame.x(min(max(math.log10(max(value, 1e-3)) - low, 0.0), frame.x_top))
        parts.append(_line(x, TOP - 2, x, frame.y(0), "mark"))
        anchor = "end" if x > width - 90 else "start"
        words = f"{name} {write_number(value)}"
        parts.append(_text(x + (-4 if anchor == "end" else 4), TOP + 8 + 14 * number, words, "label", anchor))
    return "".join(parts)


def draw_sweep(
    title: str, unit: str, loads: Sequence[float], series: Sequence[Series], *, width: float, height: float
) -> str:
    """Values over the levels of a sweep, the levels on a logarithmic scale."""
    known = [value for one in series for value in one.values if value is not None]
    ticks = find_ticks(max([0.0, *known]), 4)
    logs = [math.log10(load) for load in loads]
    low, span = min(logs), max(max(logs) - min(logs), 1e-9)
    frame = Frame(width - 16, height, span, ticks[-1])
    parts = [draw_title(title, unit), frame.draw_value_axis(ticks)]
    for load, log in zip(loads, logs, strict=True):
        parts.append(_text(frame.x(log - low), height - 4, write_number(load), "tick", "middle"))
    for one in series:
        points = [
            (frame.x(log - low), frame.y(value), value)
            for log, value in zip(logs, one.values, strict=True)
            if value is not None
        ]
        path = "".join(f"{'L' if number else 'M'}{x:.1f} {y:.1f}" for number, (x, y, _) in enumerate(points))
        parts.append(f'<path d="{path}" {_paint(one.colour, "stroke")} fill="none" stroke-width="2"/>')
        for x, y, value in points:
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" {_paint(one.colour, "fill")}>')
            parts.append(f"<title>{escape(one.name)}: {value:,.1f}</title></circle>")
    return "".join(parts)
