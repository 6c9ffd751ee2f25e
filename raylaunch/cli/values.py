"""Types of option values: times, lists of numbers, latency limits."""

import re
from collections.abc import Callable, Collection, Mapping
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


def numbers_of(kind: Callable[[str], float]) -> Callable[[str], tuple[float, ...]]:
    """An option's type: one number of a kind or several, all above 0, as 1,8,64."""

    def numbers(text: str) -> tuple[float, ...]:
        try:
            found = tuple(kind(part) for part in text.split(","))
        except ValueError:
            raise click.BadParameter(f"{text!r} is not a list of numbers, as 1,8,64") from None
        if not all(0 < number < float("inf") for number in found):
            raise click.BadParameter(f"{text!r}: every number has to be above 0")
        return found

    return numbers


def time(text: str) -> float:
    """An option's type: a time, as 30s, 500ms or 2m, in seconds."""
    seconds = parse_seconds(text)
    if not seconds > 0:
        raise click.BadParameter(f"{text!r} is not a time, as 30s, 500ms or 2m")
    return seconds


def slo(text: str) -> Mapping[str, float]:
    """An option's type: latency limits, as ttft=2s,tpot=50ms, in seconds."""
    limits = {}
    for part in text.split(","):
        key, _, limit = part.partition("=")
        limits[key] = parse_seconds(limit)
        if key not in ("ttft", "tpot", "e2e") or not limits[key] > 0:
            raise click.BadParameter(f"{part!r} is not one of ttft=TIME, tpot=TIME, e2e=TIME")
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
