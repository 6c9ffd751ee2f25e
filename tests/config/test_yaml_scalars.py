"""Which plain scalars are numbers, and which stay text."""

import json
from pathlib import Path

import pytest

from tests.config import test_cluster_file
from tests.config.launches import BASE, load, problems_of, write


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001), ("1e6", 1e6), ("1E+3", 1000.0), ("-2.5e-4", -0.00025), (".5", 0.5), ("5.", 5.0), ("+1.0", 1.0),
        ("0o17", 15), ("0x1F", 31), ("017", 17), ("08", 8), ("-3", -3), ("32_768", 32768), ("1_000.5e1", 10005.0),
        ("10:30", "10:30"), ("1:2.5", "1:2.5"), ("2024-01-01", "2024-01-01"), ("1.2.3", "1.2.3"), ("1e", "1e"),
        ("e3", "e3"), ("0b11", "0b11"), ("0o8", "0o8"), ("1__0", "1__0"), ("_1", "_1"), ("1_", "1_"),
        (".", "."), ("1,000", "1,000"), ("١", "١"), ("'1e6'", "1e6"), ('"yes"', "yes"), ("y", "y"), ("yEs", "yEs"),
        ("yes", True), ("Off", False), ("TRUE", True), ("~", None), ("Null", None), ("!!float 1e3", 1000.0),
        ("!!float 3", 3.0), ("!!str 1e3", "1e3"),
    ],
)  # fmt: skip
def test_scalars_of_free_blocks(tmp_path: Path, text: str, value: object) -> None:
    """The same in a file, a flag and a variable."""
    block = BASE + f"  additional_config:\n    x: {text}\n    list: [{text if ',' not in text else repr(text)}]\n"
    for launch in (
        load(write(tmp_path, block)),
        load(None, f"engine.additional_config={{x: {text if ',' not in text else repr(text)}}}"),
        load(None, f"engine.additional_config.x={text}"),
        load(None, RAYLAUNCH_ENGINE__ADDITIONAL_CONFIG__X=text),
    ):
        found = launch.engine["additional_config"]
        assert (found["x"], type(found["x"])) == (value, type(value))
        assert found.get("list", [value]) == [value]


def test_whole_numbers_fit_integer_options(tmp_path: Path) -> None:
    """1e5 is 100000 where only an integer fits; 1.5 and what a float cannot hold are refused."""
    launch = load(write(tmp_path, BASE + "  max_model_len: 32e3\n  cudagraph_capture_sizes: [1e0, 2]\n"))
    assert json.dumps([launch.engine["max_model_len"], launch.engine["cudagraph_capture_sizes"]]) == "[32000, [1, 2]]"
    for bad in ("1.5e0", "1e30"):
        assert "expected an integer, got a number" in problems_of(None, f"engine.seed={bad}")[0]
    assert "inf is not a finite number" in problems_of(None, "engine.hf_overrides={a: [.inf]}")[0]


def test_text_options_ask_for_quotes(tmp_path: Path) -> None:
    """A commit of digits and an e."""
    (problem,) = problems_of(write(tmp_path, "model: {repo: a/b, revision: 1234e56}\n"))
    assert "model.revision: expected text or null, got a number" in problem
    assert "put it in quotes" in problem
    assert load(write(tmp_path, "model: {repo: a/b, revision: '1234e56'}\n")).model.revision == "1234e56"


def test_cluster_files_have_the_same_numbers(tmp_path: Path) -> None:
    """Ray's launcher gets the numbers that raylaunch read."""
    cluster = test_cluster_file.load(tmp_path, test_cluster_file.COMPLETE + "upscaling_speed: 1e-1\n")
    assert json.loads(cluster.document)["upscaling_speed"] == 0.1
