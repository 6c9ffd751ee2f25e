"""lock: what a launch is served with, for the next start to be compared with."""

from pathlib import Path

import click

from raylaunch.cli.options import CLUSTER, SETS, load_launch


@click.command()
@click.argument("launch", type=click.Path(path_type=Path), metavar="LAUNCH.yaml")
@SETS
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Lock file; - prints it.  [default: LAUNCH.lock.yaml]"
)
@CLUSTER
def lock(launch: Path, sets: tuple[str, ...], output: Path | None, cluster: Path | None) -> None:
    """Record what a launch runs on, in LAUNCH.lock.yaml.

    Versions, image, drivers, GPUs, the model's files, options and variables.
    """
    from raylaunch.base import console
    from raylaunch.base.viewpoint import Viewpoint
    from raylaunch.config.layers import name_lock
    from raylaunch.lock import lock_file
    from raylaunch.lock.collect import collect_lock

    loaded = load_launch(launch, sets)
    target = output or name_lock(launch)
    if cluster is not None:
        from raylaunch.config import cluster_file
        from raylaunch.provision.remote_launch import read_lock_text

        text = read_lock_text(cluster_file.load(cluster), loaded)
    else:
        text = lock_file.to_text(collect_lock(loaded))
    if str(output) == "-":
        console.print_result(text.rstrip())
        return
    lock_file.write_lock(target, text)
    serve = Viewpoint(cluster=str(cluster) if cluster else "").command("serve", str(launch), "--locked")
    console.say(f"wrote {target}; next: {serve}")


COMMANDS = (lock,)
