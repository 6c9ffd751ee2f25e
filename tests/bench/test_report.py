"""The report in a real browser, and the picture."""

import re
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from raylaunch.base.errors import BenchError
from raylaunch.bench import charts
from raylaunch.bench.png_card import write_png
from raylaunch.bench.report import write_report
from tests.bench import browser, made_results
from tests.bench.browser import Browser


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep over three levels on two nodes with eight GPUs each; in the last one, one request in fifty failed."""
    rows = [made_results.make_rows(1, 20), made_results.make_rows(8, 80), made_results.make_rows(64, 300, fail_each=50)]
    return made_results.write(tmp_path_factory.mktemp("report") / "sweep.json", *rows)


@pytest.fixture(scope="module")
def page(sweep: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    report = write_report(sweep, sweep.with_suffix(".html"))
    with browser.browse(tmp_path_factory.mktemp("browser")) as opened:
        opened.open(report)
        yield opened


@pytest.mark.slow
def test_loads_nothing_and_complains_of_nothing(page: Browser) -> None:
    """No request leaves the page, no error and no warning on its console."""
    assert page.run("return performance.getEntriesByType('resource').map(entry => entry.name)") == []
    assert page.read_log() == []


@pytest.mark.slow
def test_shows_all_panels_on_one_time_axis(page: Browser) -> None:
    """Throughput, requests, engine, every GPU measure, network: all with the same time axis, the sweep above."""
    titles = page.run(
        "return [...document.querySelectorAll('.level:not([hidden]) .panel.time .title')].map(t => t.firstChild.data)"
    )
    assert titles == [
        "Throughput", "Under way", "Requests", "Engine", "KV cache", "GPU use", "GPU memory", "GPU power",
        "GPU temperature", "Network", "Processors",
    ]  # fmt: skip
    widths = page.run(
        "return [...document.querySelectorAll('.level:not([hidden]) .panel.time svg')]"
        ".map(svg => [svg.viewBox.baseVal.width, Math.round(svg.getBoundingClientRect().width)])"
    )
    assert len({tuple(width) for width in widths}) == 1
    lines = page.run(
        "return [...document.querySelectorAll('.level:not([hidden]) .panel.time')]"
        ".map(panel => panel.querySelectorAll('.legend span').length)"
    )
    assert lines[titles.index("GPU power")] == 16


@pytest.mark.slow
def test_tabs_choose_a_level(page: Browser) -> None:
    shown = "return [...document.querySelectorAll('.level')].map(level => !level.hidden)"
    assert page.run(shown) == [False, False, True]
    page.click("nav button:first-child")
    assert page.run(shown) == [True, False, False]
    page.click("nav button:last-child")
    assert page.run(shown) == [False, False, True]


@pytest.mark.slow
def test_pointer_reads_values_off_every_panel(page: Browser) -> None:
    """Over one panel, the crosshair goes through all, and each legend tells its values there."""
    page.move_to(".level:not([hidden]) .panel.time svg")
    values = page.run(
        "return [...document.querySelectorAll('.level:not([hidden]) .panel.time .legend b')].map(b => b.textContent)"
    )
    assert len(values) > 60
    assert all(re.fullmatch(r"–|-?[\d,.]+", value) for value in values)
    crosses = page.run(
        "return [...document.querySelectorAll('.level:not([hidden]) .cross')].map(c => c.getAttribute('visibility'))"
    )
    assert set(crosses) == {"visible"}


@pytest.mark.slow
@pytest.mark.parametrize("width", [1400, 900, 420])
def test_nothing_sticks_out(page: Browser, sweep: Path, width: int) -> None:
    """From a telephone to a wide screen, the page itself never scrolls sideways."""
    page.open(sweep.with_suffix(".html"), width=width)
    assert page.run("return document.documentElement.scrollWidth <= window.innerWidth")


def test_failures_and_hostile_words_are_text(tmp_path: Path) -> None:
    """What a server says is shown, and is never markup."""
    rows = made_results.make_rows(4, 40, fail_each=10)
    for row in rows:
        row.detail = "<script>alert(1)</script>" if row.error else ""
    path = made_results.write(tmp_path / "hostile.json", rows)
    text = write_report(path, tmp_path / "hostile.html").read_text(encoding="utf-8")
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert "INVALID" in text


def test_without_gpus_and_without_streaming(tmp_path: Path) -> None:
    """What was not measured has no panel, and leaves no hole."""
    rows = made_results.make_rows(4, 40)
    for row in rows:
        row.arrivals = row.arrivals[:0]
    path = made_results.write(tmp_path / "plain.json", rows, gpus=False)
    text = write_report(path, tmp_path / "plain.html").read_text(encoding="utf-8")
    assert "GPU power" not in text
    assert "nothing measured" in text
    assert "NaN" not in text


def test_png(sweep: Path) -> None:
    """A picture of a size a chat can show."""
    data = write_png(sweep, sweep.with_suffix(".png")).read_bytes()
    assert data.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", data[16:24])
    assert (width, 1500 < height < 3000) == (2240, True)
    assert 50_000 < len(data) < 2_000_000


def test_missing_rows_are_told(tmp_path: Path) -> None:
    path = made_results.write(tmp_path / "alone.json", made_results.make_rows(2, 10))
    (tmp_path / "alone.rows.jsonl.gz").unlink()
    with pytest.raises(BenchError, match=r"alone\.rows"):
        write_report(path, tmp_path / "alone.html")


@pytest.mark.parametrize("top", [0.003, 0.9, 1.0, 7, 99, 100, 101, 1234, 5e6])
def test_axes_reach_their_values_with_few_ticks(top: float) -> None:
    ticks = charts.find_ticks(top)
    assert ticks[0] == 0
    assert top <= ticks[-1] * 1.0001
    assert 2 <= len(ticks) <= 8
