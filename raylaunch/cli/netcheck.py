"""netcheck: whether the ranks of a launch reach each other."""

from dataclasses import asdict
from pathlib import Path

import click

from raylaunch.cli.options import JSON, LAUNCH, SETS, also_on_cluster, load_launch


@click.command()
@LAUNCH
@SETS
@click.option("--rehearse", is_flag=True, help="The GPUs are logical: check hosts and Gloo alone.")
@JSON
@also_on_cluster
def netcheck(launch: Path | None, sets: tuple[str, ...], rehearse: bool, as_json: bool) -> int:
    """Measure the network between the ranks of a launch. Exit 1 if they cannot serve over it."""
    from raylaunch.base import console
    from raylaunch.preflight.findings import show_findings
    from raylaunch.preflight.network.by_hand import check_launch

    loaded = load_launch(launch, sets)
    report = check_launch(loaded, is_logical=rehearse)
    if as_json:
        console.print_json(asdict(report) | {"has_passed": report.has_passed})
    else:
        for line in report.to_lines():
            console.print_result(line)
        show_findings(report.findings)
        console.say(f"{'passed' if report.has_passed else 'failed'} in {report.seconds:.1f} s")
    return 0 if report.has_passed else 1


COMMANDS = (netcheck,)
