"""`serve` on a terminal, where the model is missing or broken on some node: offer to bring it there."""

import asyncio
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from raylaunch import output
from raylaunch.checks.findings import Finding

if TYPE_CHECKING:
    from raylaunch.config import LaunchConfig

_OF_THE_MODEL = "model folder "
"""How findings on the model begin (checks/model_rules.py)."""


def offer_pull(config: "LaunchConfig", findings: Sequence[Finding]) -> bool:
    """Ask whether to pull what the findings miss, and do it; whether it was done.

    Without a terminal nobody is asked: the findings name the command.

    Raises:
        WeightsError: the pull failed.
    """
    nodes = sorted({found.node for found in findings if found.what.startswith(_OF_THE_MODEL)})
    if not nodes or not sys.stdin.isatty():
        return False
    import click

    where = f"{config.model_folder} is not whole on {', '.join(nodes)}"
    if not click.confirm(f"{where}. Pull {config.model.repo} to every node now?", err=True):
        return False
    from raylaunch.weights.console import ConsoleReporter
    from raylaunch.weights.crew import RayCrew
    from raylaunch.weights.hub import HubAccess
    from raylaunch.weights.pull import pull
    from raylaunch.weights.result import describe
    from raylaunch.weights.survey import Order

    order = Order(config.model.repo, config.model.revision, config.model_folder, HubAccess.of_this_process())
    with output.live_lines() as show:
        result = asyncio.run(pull(order, RayCrew(config.model_folder), ConsoleReporter(show)))
    output.say(describe(result))
    return True
