"""Types of option values: times, lists of numbers, latency limits."""

import re
from collections.abc import Callable, Collection
from typing import Any

import click

_SECONDS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "": 1.0}


def parse_seconds(text: str) -> float:
    """ "2s", "50ms", "1m" or "2.5" as seconds."""
    found = re.fullmatch(r"([0-9.]+)\s*(ms|s|m|)", text.strip())
    try:
        return float(found[1]) * _SECONDS[found[2]] if found else float("nan")
    except ValueError:
        return float("nan")


class Numbers(click.ParamType[Any]):
    """One number or several, as 1,8,64."""

    def __init__(self, kind: Callable[[str], float], name: str) -> None:
        self.kind, self.name = kind, name

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> Any:
        """The numbers, all above 0."""
        if not isinstance(value, str):
            return value
        try:
            numbers = tuple(self.kind(part) for part in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers, as 1,8,64", param, context)
        if not all(0 < number < float("inf") for number in numbers):
            self.fail(f"{value!r}: every number has to be above 0", param, context)
        return numbers


class Seconds(click.ParamType[Any]):
    """A time, as 30s, 500ms or 2m."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> Any:
        """Seconds."""
        seconds = parse_seconds(value) if isinstance(value, str) else float(value)
        if not seconds > 0:
            self.fail(f"{value!r} is not a time, as 30s, 500ms or 2m", param, context)
        return seconds


class SloType(click.ParamType[Any]):
    """Latency limits of a request, as ttft=2s,tpot=50ms."""

    name = "slo"

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> Any:
        """Measure -> seconds."""
        if not isinstance(value, str):
            return value
        limits: dict[str, float] = {}
        for part in value.split(","):
            key, _, time = part.partition("=")
            seconds = parse_seconds(time)
            if key not in ("ttft", "tpot", "e2e") or not seconds > 0:
                self.fail(f"{part!r} is not one of ttft=TIME, tpot=TIME, e2e=TIME", param, context)
            limits[key] = seconds
        return limits


def write_options(context: click.Context, *, without: Collection[str]) -> list[str]:
    """The options that this command line sets, as arguments for the same command elsewhere.

    Args:
        without: names of parameters that are left out.
    """
    arguments: list[str] = []
    for param in context.command.params:
        name = param.name or ""
        is_set = context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
        if not isinstance(param, click.Option) or not is_set or name in without:
            continue
        value = context.params[name]
        if param.is_flag:
            arguments.append(param.opts[-1] if value else param.secondary_opts[-1])
        else:
            arguments += [param.opts[-1], _write_value(value)]
    return arguments


def _write_value(value: Any) -> str:
    if isinstance(value, dict):
        return ",".join(f"{key}={seconds:g}s" for key, seconds in value.items())
    if isinstance(value, tuple):
        return ",".join(f"{number:g}" for number in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
