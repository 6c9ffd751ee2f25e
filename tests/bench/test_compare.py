"""Two results: a verdict where there is one, and only there."""

import json
import math
from pathlib import Path

import pytest

from raylaunch.bench.compare import Comparison, compare_files, find_t
from tests.bench import made_results
from tests.e2e import harness


def write(folder: Path, name: str, *, seed: int, slower: float = 1.0, requests: int = 320) -> Path:
    rows = made_results.make_rows(32, requests, seed=seed, slower=slower)
    return made_results.write(folder / f"{name}.json", rows, gpus=False)


def only(a: Path, b: Path) -> Comparison:
    differences, (comparison,) = compare_files(a, b)
    assert differences == []
    return comparison


@pytest.mark.no_cover  # twelve times what the tests below run
def test_like_and_like_get_no_verdict(tmp_path: Path) -> None:
    """12 pairs of one and the same server: 48 comparisons at 99 % may give one false verdict, hardly two."""
    verdicts, covered = 0, 0
    for seed in range(12):
        comparison = only(write(tmp_path, "a", seed=seed), write(tmp_path, "b", seed=seed + 1000))
        verdicts += sum(bool(line.verdict) for line in comparison.lines)
        covered += sum(line.low is not None and line.low <= 1 <= (line.high or 0) for line in comparison.lines)
    assert verdicts <= 2
    assert covered >= 0.88 * 48


def test_slower_is_seen(tmp_path: Path) -> None:
    """A tenth slower: throughput and time per token say so, in the right direction and about that much."""
    comparison = only(write(tmp_path, "a", seed=1), write(tmp_path, "b", seed=2, slower=1.1))
    lines = {line.name: line for line in comparison.lines}
    assert lines["throughput"].verdict.endswith("worse")
    assert lines["each token, median"].verdict.endswith("worse")
    assert lines["each token, median"].ratio == pytest.approx(1.1, abs=0.01)
    assert only(tmp_path / "b.json", tmp_path / "a.json").lines[0].verdict.endswith("better")


def test_too_short_to_tell(tmp_path: Path) -> None:
    comparison = only(write(tmp_path, "a", seed=1, requests=40), write(tmp_path, "b", seed=2, requests=40))
    assert comparison.why_no_verdict.startswith("too short")
    assert all(line.ratio is None for line in comparison.lines)


def test_invalid_and_different_are_not_judged(tmp_path: Path) -> None:
    a, b = write(tmp_path, "a", seed=1), write(tmp_path, "b", seed=2, slower=1.5)
    result = json.loads(b.read_text())
    result["levels"][0] |= {"valid": False, "invalid_because": ["shard 0 was slow"]}
    b.write_text(json.dumps(result))
    assert only(a, b).why_no_verdict == "B is INVALID: shard 0 was slow"
    result["asked"]["max_tokens"] = 7
    b.write_text(json.dumps(result))
    differences, (comparison,) = compare_files(a, b)
    assert differences == ["max_tokens: 256 in A, 7 in B"]
    assert not any(line.verdict for line in comparison.lines)
    result["asked"] |= {"max_tokens": 256, "own_output_tokens": [64, 192]}
    b.write_text(json.dumps(result))
    assert compare_files(a, b)[0] == ["own_output_tokens: None in A, [64, 192] in B"]


def test_command(tmp_path: Path) -> None:
    """As text and as JSON; a file that is no result is an error."""
    a, b = write(tmp_path, "a", seed=1), write(tmp_path, "b", seed=2, slower=1.3)
    reported = harness.run("bench", "compare", str(a), str(b), home=tmp_path)
    assert reported.returncode == 0, reported.stderr
    assert "worse" in reported.stdout
    read = json.loads(harness.run("bench", "compare", str(a), str(b), "--json", home=tmp_path).stdout)
    assert read["levels"][0]["lines"][0]["verdict"].endswith("worse")
    other = tmp_path / "other.json"
    other.write_text("{}")
    refused = harness.run("bench", "compare", str(a), str(other), home=tmp_path)
    assert refused.returncode == 1
    assert "not a result" in refused.stderr


@pytest.mark.parametrize(
    ("probability", "freedom", "known"),
    [(0.975, 4, 2.776), (0.975, 10, 2.228), (0.995, 6, 3.707), (0.995, 30, 2.750), (0.975, math.inf, 1.960)],
)
def test_quantiles_of_students_t(probability: float, freedom: float, known: float) -> None:
    """Against the printed table."""
    assert find_t(probability, freedom) == pytest.approx(known, rel=0.01)
