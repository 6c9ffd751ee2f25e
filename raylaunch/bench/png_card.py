"""A result as one PNG for a chat: the figures that matter, what happened over time, how latencies are spread.

The charts are those of the HTML report. resvg turns the SVG into pixels (`pip install 'raylaunch[report]'`): one wheel
of 1.4 MB without system libraries, where a plotting library would need every chart drawn a second time.
"""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from raylaunch.base.errors import BenchError
from raylaunch.bench.connection import RequestRow
from raylaunch.bench.figures import BenchResult, LevelResult
from raylaunch.bench.panels import REQUESTS, list_histograms, list_sweep_panels, list_time_panels
from raylaunch.bench.report import describe_machines, list_tiles
from raylaunch.bench.result import read_result, read_rows

WIDTH, PAD, SCALE = 1120, 36, 2
_TIME_PANELS = ("Throughput", REQUESTS, "GPU use")
_FONT_FOLDERS = ("/usr/share/fonts", "/usr/local/share/fonts", "/System/Library/Fonts", "/Library/Fonts")
_COLOURS = ("#2f6bdf", "#e07a1f", "#0e9384", "#7a4fd0", "#c0356f", "#4d7c0f", "#0891b2", "#8a5a2b")
_STYLE = (
    "text{font-family:'DejaVu Sans','Noto Sans','Liberation Sans','Helvetica','Arial',sans-serif}"
    ".title{font-size:13.5px;font-weight:bold;fill:#171a21}.unit{font-weight:normal;fill:#5d6675;font-size:12.5px}"
    ".tick{font-size:11.5px;fill:#5d6675}.label{font-size:11.5px;font-weight:bold;fill:#171a21}"
    ".grid{stroke:#e6e8ec}.axis{stroke:#b4bac4}.mark{stroke:#171a21;stroke-dasharray:3 3}"
    ".bar-wait{stroke:#e07a1f;opacity:.75}.bar-answer{stroke:#2f6bdf}.bar-failed{stroke:#b42318}"
    ".big{font-size:25px;font-weight:bold;fill:#171a21}.soft{font-size:13px;fill:#5d6675}"
) + "".join(f".stroke-c{n}{{stroke:{colour}}}.fill-c{n}{{fill:{colour}}}" for n, colour in enumerate(_COLOURS))


def write_png(result_path: Path, target: Path) -> Path:
    """Draw the last level of a result (of a sweep: with its throughput over the levels).

    Raises:
        BenchError: a file cannot be read or written, or resvg or every font is missing.
    """
    try:
        import resvg_py
    except ImportError as error:
        raise BenchError("a PNG needs resvg-py", fix="pip install 'raylaunch[report]'") from error
    if not _has_fonts():
        raise BenchError("a PNG needs a font, and this machine has none", fix="apt-get install fonts-dejavu-core")
    result = read_result(result_path)
    rows = read_rows(result_path).get(len(result.levels) - 1, [])
    picture = resvg_py.svg_to_bytes(svg_string=make_card(result, rows), zoom=SCALE)
    try:
        target.write_bytes(bytes(picture))
    except OSError as error:
        raise BenchError(f"{target} cannot be written: {error.strerror}", fix="name another with --png") from error
    return target


def _has_fonts() -> bool:
    folders = (*_FONT_FOLDERS, str(Path.home() / ".fonts"), str(Path.home() / ".local/share/fonts"))
    return any(next(Path(folder).rglob("*.[to]t[fc]"), None) for folder in folders)


def make_card(result: BenchResult, rows: Sequence[RequestRow]) -> str:
    """The card's SVG."""
    level = result.levels[-1]
    inner = WIDTH - 2 * PAD
    parts = [_draw_head(result, level, inner), _draw_tiles(level, inner)]
    y = 232.0

    def place(inside: str, x: float = 0.0) -> None:
        parts.append(f'<g transform="translate({PAD + x:g} {y:g})">{inside}</g>')

    for panel in list_time_panels(level, rows, inner):
        if panel.title in _TIME_PANELS:
            place(panel.inside)
            y += panel.height + 16
    half = inner / 2 - 12
    spread = list_histograms(level, half)
    if len(result.levels) > 1:
        spread += list_sweep_panels(result.levels, half)[:2]
    for number, panel in enumerate(spread):
        place(panel.inside, x=(half + 24) * (number % 2))
        y += (panel.height + 16) * (number % 2)
    height = y + 14
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height:g}" viewBox="0 0 {WIDTH} {height:g}">'
        f"<style>{_STYLE}</style>"
        f'<rect width="100%" height="100%" fill="#ffffff"/>{"".join(parts)}</svg>'
    )


def _draw_head(result: BenchResult, level: LevelResult, inner: float) -> str:
    valid = result.valid
    words, ink, back = ("valid", "#0f7b4f", "#e3f5ec") if valid else ("INVALID", "#b42318", "#fdeceb")
    caption = f"{level.load.describe()} · {describe_machines(result)} · {result.made_at[:10]}"
    if not valid:
        caption = f"{result.invalid_because[0]} · {caption}"
    right = PAD + inner
    word = f'<text x="{right - 46}" y="53" text-anchor="middle" fill="{ink}" font-size="14" font-weight="bold">{words}'
    return (
        f'<text x="{PAD}" y="56" class="big">{escape(_shorten(result.server.model, 52))}</text>'
        f'<text x="{PAD}" y="80" class="soft">{escape(_shorten(caption, 130))}</text>'
        f'<rect x="{right - 92}" y="34" width="92" height="28" rx="14" fill="{back}"/>'
        f"{word}</text>"
    )


def _shorten(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _draw_tiles(level: LevelResult, inner: float) -> str:
    tiles = list_tiles(level)[:6]
    width = (inner - 10 * (len(tiles) - 1)) / len(tiles)
    parts = []
    for number, (value, unit, name) in enumerate(tiles):
        x = PAD + number * (width + 10)
        parts.append(
            f'<rect x="{x:.1f}" y="104" width="{width:.1f}" height="92" rx="12" fill="#f5f6f8"/>'
            f'<text x="{x + 14:.1f}" y="144" class="big">{escape(value)}</text>'
            f'<text x="{x + 14:.1f}" y="164" class="soft">{escape(unit)}</text>'
            f'<text x="{x + 14:.1f}" y="183" class="soft">{escape(name)}</text>'
        )
    return "".join(parts)
