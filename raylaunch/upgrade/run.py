"""`raylaunch upgrade` and `rollback`: exchange, measure, keep or go back."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from raylaunch.base import paths
from raylaunch.base.errors import RaylaunchError, ServiceError
from raylaunch.base.http_client import RequestError
from raylaunch.bench import result as result_file
from raylaunch.bench.figures import Level
from raylaunch.bench.load import LoadTest
from raylaunch.bench.local_shards import LocalShards
from raylaunch.bench.prompts import RequestOptions, list_own_questions
from raylaunch.bench.run import run_test
from raylaunch.bench.target import Target
from raylaunch.config.launch import LaunchConfig
from raylaunch.upgrade.answers import Answer, collect_answers, score_answers
from raylaunch.upgrade.gate import Measured, judge
from raylaunch.upgrade.place import Place, Served, compare_launches

_PREVIOUS, _CURRENT = "previous.json", "current.json"
_TOKENS = 32


@dataclass(frozen=True)
class UpgradeOptions:
    """How the engines are measured."""

    at_once: int
    """The usual number of requests at once; one at a time is measured, too."""
    measure_s: float
    """For both levels together, in seconds."""
    with_answers: bool


@dataclass(frozen=True)
class Upgrade:
    """One upgrade of a service that is ready."""

    place: Place
    old: Served
    new: Served
    options: UpgradeOptions
    report: Callable[[str], None]

    def run(self) -> tuple[str, ...]:
        """Measure, swap, measure, and go back if the new engine is worse.

        Returns:
            Why it went back; () where the new one is served.

        Raises:
            RaylaunchError: the new one did not come up (the old one is served again), or going back failed.
            BenchError: the old engine could not be measured; nothing was changed.
        """
        folder = paths.make_private(paths.home() / "upgrades" / time.strftime("%Y%m%d-%H%M%S"))
        self.report(f"measuring the running engine for {self.options.measure_s:.0f} s; reports: {folder}")
        before = self._measure(self.old, folder / "before.json", None)
        try:
            self.report(self.place.swap(self.old, self.new))
        except RaylaunchError as error:
            _write_verdict(folder, (str(error),))
            raise
        self.report(f"measuring the new engine for {self.options.measure_s:.0f} s")
        if reasons := self._judge(before, folder):
            self.report("measuring it again, as it has just started: " + "; ".join(reasons))
            reasons = self._judge(before, folder)
        _write_verdict(folder, reasons)
        if reasons:
            self.report("going back: " + "; ".join(reasons))
            self.report(self.place.swap(self.new, self.old))
            return reasons
        _settle(self.place, previous=self.old, current=self.new)
        return ()

    def _judge(self, before: Measured, folder: Path) -> tuple[str, ...]:
        """Why the new engine may not stay."""
        try:
            return tuple(judge(before, self._measure(self.new, folder / "after.json", before.answers)))
        except (RaylaunchError, LookupError, TypeError, ValueError) as error:
            return (f"the new engine could not be measured: {error}",)

    def _measure(self, served: Served, path: Path, answers: tuple[Answer, ...] | None) -> Measured:
        with self.place.reach(served) as target:
            self._bench(target, path)
            problems = check_features(target, served.launch)
            if not self.options.with_answers:
                return Measured(path, (), (), (), problems)
            known = collect_answers(target) if answers is None else answers
            # Only the old engine's scatter is asked for: its answers are scored a second time, all at once.
            at_once = score_answers(target, known, at_once=len(known)) if answers is None else ()
            return Measured(path, known, score_answers(target, known), at_once, problems)

    def _bench(self, target: Target, path: Path) -> None:
        levels = tuple(Level(concurrency=count) for count in dict.fromkeys((1, self.options.at_once)))
        request = RequestOptions(api="completions", stream=True, max_tokens=_TOKENS, exact=True, temperature=0.0)
        test = LoadTest(
            target, request, list_own_questions(), levels, warmup=4, timeout_s=120.0, seed=0,
            duration_s=self.options.measure_s / len(levels), source="raylaunch's own questions",
        )  # fmt: skip
        outcome = run_test(test, LocalShards(), None, show=lambda _lines: None)
        result_file.write_result(path, outcome.result, outcome.rows)


def check_features(target: Target, launch: LaunchConfig) -> tuple[str, ...]:
    """Chat answers, and tools are parsed where the launch configures a parser; a sentence for each that fails."""
    problems = []
    body = {"model": target.model, "max_tokens": 64, "messages": [{"role": "user", "content": "What is 2 + 2?"}]}
    try:
        message = target.ask("/v1/chat/completions", body)["choices"][0]["message"]
        if not any(message.get(key) for key in ("content", "reasoning", "reasoning_content", "tool_calls")):
            problems.append("chat: the answer is empty")
    except RequestError as error:
        if error.status != 400:  # no chat template, as before the upgrade
            problems.append(f"chat: {error}")
    if launch.server.get("enable_auto_tool_choice"):
        tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
        try:
            target.ask("/v1/chat/completions", {**body, "tools": [tool], "tool_choice": "auto"})
        except RequestError as error:
            problems.append(f"tools: {error}")
    return tuple(problems)


def roll_back(place: Place, report: Callable[[str], None]) -> str:
    """Serve again what the last upgrade replaced; a second call returns to the newer one.

    Raises:
        RaylaunchError: there was no upgrade, or it did not come up.
    """
    try:
        previous, current = (
            Served.from_json((place.folder / name).read_text("utf-8")) for name in (_PREVIOUS, _CURRENT)
        )
    except FileNotFoundError as error:
        raise ServiceError(
            f"no upgrade of the service on port {place.port} is known", fix="`raylaunch restart LAUNCH.yaml`"
        ) from error
    for change in compare_launches(current, previous).changes:
        report(change)
    done = place.swap(current, previous)
    _settle(place, previous=current, current=previous)
    return done


def _settle(place: Place, *, previous: Served, current: Served) -> None:
    paths.write_private(place.folder / _PREVIOUS, previous.to_json())
    paths.write_private(place.folder / _CURRENT, current.to_json())
    place.settle(current)


def _write_verdict(folder: Path, reasons: Sequence[str]) -> None:
    (folder / "verdict.json").write_text(json.dumps({"failed": reasons, "kept": not reasons}, indent=1) + "\n")


def find_level(given: int | None, running: int | None) -> int:
    """The usual number of requests at once: as given, else what runs now, within 4 and 64."""
    return given or min(64, max(4, running or 0))
