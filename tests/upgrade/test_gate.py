"""The gate's judgements, on made results."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from raylaunch.base.errors import ServiceError
from raylaunch.bench.compare import ComparedMeasure
from raylaunch.bench.target import Target
from raylaunch.config import launch_file
from raylaunch.config.launch import LaunchConfig
from raylaunch.upgrade.answers import Answer, find_threshold
from raylaunch.upgrade.gate import Measured, describe_changes, is_worse, judge, judge_answers
from raylaunch.upgrade.place import Preparation, Served, compare_launches
from raylaunch.upgrade.run import Upgrade, UpgradeOptions, check_features, find_level, roll_back
from tests.bench import made_results, odd_server

THROUGHPUT = ComparedMeasure("throughput", "output tokens/s", 100.0, 95.0, True, 0.95, 0.93, 0.97, True)
TTFT = ComparedMeasure("first token, median", "ms", 100.0, 105.0, False, 1.05, 1.02, 1.08, True)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (THROUGHPUT, False),
        (replace(THROUGHPUT, ratio=0.85, low=0.8, high=0.89), True),
        (replace(THROUGHPUT, ratio=0.85, low=0.7, high=1.0), False),
        (replace(THROUGHPUT, ratio=1.5, low=1.4, high=1.6), False),
        (TTFT, False),
        (replace(TTFT, ratio=1.3, low=1.2, high=1.4), True),
        (replace(TTFT, ratio=1.3, low=1.0, high=1.6), False),
        (replace(TTFT, ratio=None, low=None, high=None), False),
        (replace(TTFT, b=201.0, ratio=None, low=None, high=None), True),
        (replace(THROUGHPUT, b=49.0, ratio=None, low=None, high=None), True),
    ],
)
def test_ten_percent_beyond_the_scatter(line: ComparedMeasure, expected: bool) -> None:
    """The better end of the 95 % interval has to be worse by 10 %."""
    assert is_worse(line) is expected


@pytest.fixture
def measured(tmp_path: Path) -> Measured:
    """One engine under eight requests at once."""
    result = made_results.write(tmp_path / "a.json", made_results.make_rows(8, 200))
    return Measured(result, (Answer("q", "a", 4),) * 2, (-1.0, -1.2), (-1.01, -1.19))


def test_the_same_engine_stays(measured: Measured) -> None:
    assert list(judge(measured, measured)) == []


def test_a_broken_chat_does_not(measured: Measured) -> None:
    assert list(judge(measured, replace(measured, problems=("chat: HTTP 500",)))) == ["chat: HTTP 500"]


def test_garbage_is_unlikely(measured: Measured) -> None:
    """A little less likely is scatter; nine nats a token are other weights."""
    assert list(judge_answers(measured, replace(measured, scores=(-1.1, -1.25)))) == []
    (reason,) = judge_answers(measured, replace(measured, scores=(-10.0, -11.0)))
    assert "less likely by 9.40 nats a token" in reason


def test_threshold_follows_the_old_engine() -> None:
    assert find_threshold((-1.0, -1.0), (-1.0, -1.01)) == 0.2
    assert find_threshold((-1.0, -1.0), (-1.0, -1.5)) == pytest.approx(2.0)


def test_changes_are_named() -> None:
    assert describe_changes({"a": "1", "b": "2"}, {"a": "1", "b": "3", "c": "4"}) == ["b: 2 -> 3", "c: default -> 4"]


@pytest.mark.parametrize(
    ("given", "running", "expected"), [(None, None, 4), (None, 30, 30), (None, 500, 64), (7, 1, 7)]
)
def test_usual_level(given: int | None, running: int | None, expected: int) -> None:
    assert find_level(given, running) == expected


def test_a_refused_chat_and_tool_call_are_problems(tmp_path: Path) -> None:
    """No error that would leave the new engine in place unjudged."""
    launch = tmp_path / "launch.yaml"
    launch.write_text("model: {repo: a/b}\nserver: {enable_auto_tool_choice: true, tool_call_parser: hermes}\n")
    with odd_server.serve(lambda _: "503") as server:
        problems = check_features(Target(server.url, "odd"), launch_file.load(launch, environ={}))
    assert [problem.partition(":")[0] for problem in problems] == ["chat", "tools"]
    assert all("503" in problem for problem in problems)


@dataclass
class Scene:
    """Two servers, of which the second answers nothing; what was served in turn."""

    folder: Path
    urls: dict[str, str]
    swaps: list[str] = field(default_factory=list)
    settled: list[str] = field(default_factory=list)
    port: int = 1
    running: int | None = 0

    def prepare(self, old: LaunchConfig, new: LaunchConfig) -> Preparation:
        return compare_launches(Served(old), Served(new))

    def swap(self, _now: Served, to: Served, /) -> str:
        self.swaps.append(to.image)
        return "swapped"

    @contextmanager
    def reach(self, served: Served) -> Iterator[Target]:
        yield Target(self.urls[served.image], "odd")

    def settle(self, served: Served) -> None:
        self.settled.append(served.image)


def test_an_engine_that_cannot_be_measured_gives_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYLAUNCH_HOME", str(tmp_path / "home"))
    launch = tmp_path / "launch.yaml"
    launch.write_text("model: {repo: a/b}\n")
    config = launch_file.load(launch, environ={})
    with odd_server.serve() as good, odd_server.serve(lambda _: "503") as bad:
        place = Scene(tmp_path, {"old": good.url, "new": bad.url})
        options = UpgradeOptions(at_once=2, measure_s=0.4, with_answers=False)
        reasons = Upgrade(place, Served(config, "old"), Served(config, "new"), options, lambda _: None).run()
    assert reasons
    assert place.swaps == ["new", "old"]
    assert place.settled == []
    (verdict,) = (tmp_path / "home" / "upgrades").glob("*/verdict.json")
    assert json.loads(verdict.read_text())["kept"] is False


def test_a_rollback_returns_to_what_was_before(tmp_path: Path) -> None:
    """And a second one to the newer."""
    launch = tmp_path / "launch.yaml"
    launch.write_text("model: {repo: a/b}\nserver: {api_key: secret}\n")
    config = launch_file.load(launch, environ={})
    place = Scene(tmp_path, {})
    with pytest.raises(ServiceError, match="no upgrade of the service on port 1 is known"):
        roll_back(place, print)
    (tmp_path / "previous.json").write_text(Served(config, "old").to_json())
    (tmp_path / "current.json").write_text(Served(config, "new").to_json())
    lines: list[str] = []
    roll_back(place, lines.append)
    roll_back(place, lines.append)
    assert lines == ["image: new -> old", "image: old -> new"]
    assert place.swaps == place.settled == ["old", "new"]
    assert Served.from_json((tmp_path / "current.json").read_text()).launch.api_keys == ("secret",)
