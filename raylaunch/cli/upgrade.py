"""upgrade, rollback: another launch or image in the place of the running one, kept only if it serves as well."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from raylaunch.cli.options import CLUSTER, PORT, SETS, find_service, load_launch, report_interrupt

if TYPE_CHECKING:
    from raylaunch.upgrade.on_cluster import OnCluster
    from raylaunch.upgrade.place import ThisMachine

_TIMEOUT = click.option("--timeout-s", type=float, default=7200.0, show_default=True, help="Longest wait, in seconds.")


@click.command()
@click.argument("launch", type=click.Path(path_type=Path), metavar="LAUNCH.yaml")
@SETS
@click.option("--to", "to", required=True, metavar="NEW.yaml|IMAGE", help="The new launch, or with --cluster an image.")
@click.option(
    "--at-once", type=click.IntRange(1, 4096), help="Usual requests at once.  [default: what runs now, 4 to 64]"
)
@click.option("--measure-s", type=float, default=30.0, show_default=True, help="Time of each measurement, in seconds.")
@click.option("--no-answers", is_flag=True, help="Do not compare answers: the new launch has another model.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@CLUSTER
@_TIMEOUT
def upgrade(
    launch: Path,
    sets: tuple[str, ...],
    to: str,
    at_once: int | None,
    measure_s: float,
    no_answers: bool,
    yes: bool,
    cluster: Path | None,
    timeout_s: float,
) -> int:
    """Serve another launch or image; go back if it is worse.

    NEW.yaml or IMAGE in the place of what LAUNCH.yaml runs. Worse: slower, or other answers by their log-probability.
    """
    from raylaunch.base import console
    from raylaunch.base.errors import ServiceError
    from raylaunch.base.viewpoint import Viewpoint
    from raylaunch.upgrade.on_cluster import OnCluster
    from raylaunch.upgrade.run import Upgrade, UpgradeOptions, find_level

    old = load_launch(launch, sets)
    is_image = Path(to).suffix not in (".yaml", ".yml") and not Path(to).exists()
    if is_image and cluster is None:
        raise click.UsageError(f"{to} is no launch file; an image is that of a cluster: add --cluster CLUSTER.yaml")
    new = old if is_image else load_launch(Path(to), sets)
    place = _open(cluster, old.port, timeout_s)
    ready = place.prepare_image(old, to) if is_image and isinstance(place, OnCluster) else place.prepare(old, new)
    if not ready.changes:
        console.say(f"{to} is the same as {ready.old.image if is_image else launch}: nothing to upgrade")
        return 0
    for change in ready.changes:
        console.print_result(change)
    if not yes:
        if not sys.stdin.isatty():
            raise ServiceError("no terminal to ask on; nothing was changed", fix="--yes serves it without a question")
        click.confirm("serve this instead?", abort=True, err=True)
    options = UpgradeOptions(find_level(at_once, place.running), measure_s, not no_answers)
    view = Viewpoint(cluster=str(cluster) if cluster else "")
    with report_interrupt(f"stopped; `{view.command('status')}` shows what is served"):
        reasons = Upgrade(place, ready.old, ready.new, options, console.say).run()
    for reason in reasons:
        console.print_result(f"not kept: {reason}")
    if reasons:
        console.say(f"{ready.old.image if is_image else launch} is served, as before")
    else:
        console.say(f"{to} is served; back to {ready.old.image if is_image else launch}: {view.command('rollback')}")
    return 1 if reasons else 0


@click.command()
@PORT
@CLUSTER
@_TIMEOUT
def rollback(port: int | None, cluster: Path | None, timeout_s: float) -> None:
    """Undo the last upgrade: serve the launch or image before it.

    A second rollback returns to the newer one.
    """
    from raylaunch.base import console
    from raylaunch.upgrade.run import roll_back

    console.print_result(roll_back(_open(cluster, port, timeout_s), console.say))


def _open(cluster: Path | None, port: int | None, timeout_s: float) -> "ThisMachine | OnCluster":
    from raylaunch.base import console

    if cluster is None:
        from raylaunch.upgrade.place import ThisMachine

        return ThisMachine(find_service(port), console.say, timeout_s)
    from raylaunch.config import cluster_file
    from raylaunch.upgrade.on_cluster import OnCluster

    return OnCluster.open(cluster_file.load(cluster), port, console.say, timeout_s)


COMMANDS = (upgrade, rollback)
