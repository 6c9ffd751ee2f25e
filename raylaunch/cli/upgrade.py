"""upgrade, rollback: another launch in the place of the running one, kept only if it serves as well."""

from pathlib import Path

import click

from raylaunch.cli.options import PORT, SETS, find_service, load_launch

_TIMEOUT = click.option("--timeout-s", type=float, default=7200.0, show_default=True, help="Longest wait, in seconds.")


@click.command()
@click.argument("launch", type=click.Path(path_type=Path), metavar="LAUNCH.yaml")
@SETS
@click.option("--to", "to", required=True, type=click.Path(path_type=Path), metavar="NEW.yaml", help="The new launch.")
@click.option(
    "--at-once", type=click.IntRange(1, 4096), help="Usual requests at once.  [default: what runs now, 4 to 64]"
)
@click.option("--measure-s", type=float, default=30.0, show_default=True, help="Time of each measurement, in seconds.")
@click.option("--no-answers", is_flag=True, help="Do not compare answers: the new launch has another model.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@_TIMEOUT
def upgrade(
    launch: Path,
    sets: tuple[str, ...],
    to: Path,
    at_once: int | None,
    measure_s: float,
    no_answers: bool,
    yes: bool,
    timeout_s: float,
) -> int:
    """Serve another launch; go back if it is slower or worse.

    NEW.yaml instead of LAUNCH.yaml, which runs here. Worse: other answers, by their log-probability.
    """
    from raylaunch.base import console
    from raylaunch.serve import status as service_status
    from raylaunch.upgrade.run import Upgrade, UpgradeOptions, find_level, list_changes

    old, new = load_launch(launch, sets), load_launch(to, sets)
    service = find_service(old.port)
    changes = list_changes(old, new)
    if not changes:
        console.say("both launches are the same: nothing to upgrade")
        return 0
    for change in changes:
        console.print_result(change)
    if not yes:
        click.confirm("serve these instead?", abort=True, err=True)
    level = find_level(at_once, service_status.query(service).requests_running)
    options = UpgradeOptions(level, measure_s, not no_answers, timeout_s)
    reasons = Upgrade(service, old, new, options, console.say).run()
    for reason in reasons:
        console.print_result(f"not kept: {reason}")
    console.say(f"{launch if reasons else to} is served" + ("" if reasons else "; `raylaunch rollback` returns"))
    return 1 if reasons else 0


@click.command()
@PORT
@_TIMEOUT
def rollback(port: int | None, timeout_s: float) -> None:
    """Undo the last upgrade: serve the launch before it."""
    from raylaunch.base import console
    from raylaunch.upgrade.run import roll_back

    console.print_result(roll_back(find_service(port), report=console.say, timeout_s=timeout_s))


COMMANDS = (upgrade, rollback)
