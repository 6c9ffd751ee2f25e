"""`raylaunch upgrade` and `rollback` on the machine that serves."""

import json
import time
from collections.abc import Callable
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
from raylaunch.bench.target import Target, find_target
from raylaunch.config.launch import LaunchConfig
from raylaunch.config.launch_file import describe_rows, format_value
from raylaunch.serve.control_socket import request_restart
from raylaunch.serve.service_record import Service
from raylaunch.upgrade.answers import Answer, collect_answers, score_answers
from raylaunch.upgrade.gate import Measured, describe_changes, judge

_PREVIOUS, _CURRENT = "previous-launch.json", "current-launch.json"
_TOKENS = 32
_ANSWER_TIMEOUT_S = 120.0
"""Longest wait for one answer of an engine that is measured."""


@dataclass(frozen=True)
class UpgradeOptions:
    """How the engines are measured."""

    at_once: int
    """The usual number of requests at once; one at a time is measured, too."""
    measure_s: float
    """For both levels together, in seconds."""
    with_answers: bool
    timeout_s: float
    """Longest wait for an engine to serve."""


@dataclass(frozen=True)
class Upgrade:
    """One upgrade of a service that is ready."""

    service: Service
    old: LaunchConfig
    new: LaunchConfig
    options: UpgradeOptions
    report: Callable[[str], None]

    def run(self) -> tuple[str, ...]:
        """Measure, swap, measure, and go back if the new engine is worse.

        Returns:
            Why it went back; () where the new launch is served.

        Raises:
            ServiceError: the new launch did not come up (the old one is served again), or going back failed.
            BenchError: the old engine could not be measured; nothing was changed.
        """
        folder = paths.make_private(paths.home() / "upgrades" / time.strftime("%Y%m%d-%H%M%S"))
        self.report(f"measuring the running engine for {self.options.measure_s:.0f} s; reports: {folder}")
        before = self._measure(self.old, folder / "before.json", None)
        self.report(self._swap(self.new))
        try:
            after = self._measure(self.new, folder / "after.json", before.answers)
            reasons = tuple(judge(before, after))
        except (RaylaunchError, LookupError, TypeError, ValueError) as error:
            reasons = (f"the new engine could not be measured: {error}",)
        (folder / "verdict.json").write_text(json.dumps({"failed": reasons, "kept": not reasons}, indent=1) + "\n")
        if reasons:
            self.report("going back: " + "; ".join(reasons))
            self.report(self._swap(self.old))
            return reasons
        _remember(self.service, previous=self.old, current=self.new)
        return ()

    def _swap(self, launch: LaunchConfig) -> str:
        return request_restart(self.service.folder, launch, report=self.report, timeout_s=self.options.timeout_s)

    def _measure(self, launch: LaunchConfig, path: Path, answers: tuple[Answer, ...] | None) -> Measured:
        target = find_target(launch=launch, url=None, port=None, model=None, timeout_s=_ANSWER_TIMEOUT_S)
        self._bench(target, path)
        if not self.options.with_answers:
            return Measured(path, (), (), (), check_features(target, launch))
        known = collect_answers(target) if answers is None else answers
        # Only the old engine's scatter is asked for: its answers are scored a second time, all at once.
        at_once = score_answers(target, known, at_once=len(known)) if answers is None else ()
        return Measured(path, known, score_answers(target, known), at_once, check_features(target, launch))

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


def list_changes(old: LaunchConfig, new: LaunchConfig) -> list[str]:
    """What differs between two launches, secrets masked."""
    values = [{key: format_value(value) for key, value, _ in describe_rows(launch)} for launch in (old, new)]
    return list(describe_changes(values[0], values[1]))


def roll_back(service: Service, *, report: Callable[[str], None], timeout_s: float) -> str:
    """Serve the launch that the last upgrade replaced; a second call returns to the newer one.

    Raises:
        ServiceError: there was no upgrade, or the launch did not come up.
    """
    try:
        previous = LaunchConfig.from_json((service.folder / _PREVIOUS).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ServiceError(
            f"no upgrade of the service on port {service.port} is known", fix="`raylaunch restart LAUNCH.yaml`"
        ) from error
    current = LaunchConfig.from_json((service.folder / _CURRENT).read_text(encoding="utf-8"))
    done = request_restart(service.folder, previous, report=report, timeout_s=timeout_s)
    _remember(service, previous=current, current=previous)
    return done


def _remember(service: Service, *, previous: LaunchConfig, current: LaunchConfig) -> None:
    paths.write_private(service.folder / _PREVIOUS, previous.to_json())
    paths.write_private(service.folder / _CURRENT, current.to_json())


def find_level(given: int | None, running: int | None) -> int:
    """The usual number of requests at once: as given, else what runs now, within 4 and 64."""
    return given or min(64, max(4, running or 0))
