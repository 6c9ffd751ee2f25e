"""Options of the command line: what they take, and that they can be repeated elsewhere."""

import math

import click
import pytest

from raylaunch.bench.figures import Level
from raylaunch.bench.load import LoadTest
from raylaunch.bench.prompts import RequestOptions
from raylaunch.bench.target import Target
from raylaunch.cli import bench
from raylaunch.cli.values import parse_seconds, write_options


@pytest.mark.parametrize(("text", "seconds"), [("2s", 2.0), ("50ms", 0.05), ("1m", 60.0), ("2.5", 2.5), ("90 s", 90.0)])
def test_times(text: str, seconds: float) -> None:
    assert parse_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "fast", "2h", "1.2.3s", "-1s"])
def test_no_times(text: str) -> None:
    assert math.isnan(parse_seconds(text))


def parse(*arguments: str) -> click.Context:
    return bench.run_bench.make_context("run", list(arguments))


def test_help_names_the_number_of_requests() -> None:
    """The same numbers that a level has by default."""
    (option,) = (param for param in bench.run_bench.params if param.name == "requests")
    assert isinstance(option, click.Option)
    test = LoadTest(Target("http://x", "m"), RequestOptions("chat", 1), (), (), 0, 1.0, 0)
    assert test.count_requests(Level(concurrency=1)) == 20
    assert test.count_requests(Level(concurrency=7)) == 21
    assert test.count_requests(Level(rate_per_s=1.0)) == 200
    assert option.help == "Requests of each level.  [default: 3 x concurrency, at least 20; with --rate 200]"


def test_options_are_said_again() -> None:
    """Parsed, written and parsed again, they mean the same; defaults and files of this machine are left out."""
    context = parse(
        "-c", "1,8", "--slo", "ttft=2s,tpot=50ms", "--duration", "1m", "--no-sample", "--temperature", "0.5", "--api",
        "chat", "--seed", "7", "--force", "-o", "here.json", "--json",
    )  # fmt: skip
    words = write_options(context, without={"output", "as_json"})
    again = parse(*words).params
    for name, value in context.params.items():
        if name not in ("output", "as_json"):
            assert again[name] == value, name
    assert "--timeout" not in words
    assert "here.json" not in words
