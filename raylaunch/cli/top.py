"""top: what every node and GPU, the engine and its supervisor do right now."""

import threading
from pathlib import Path

import click

from raylaunch.cli.options import CLUSTER, JSON, PORT


@click.command()
@PORT
@CLUSTER
@click.option("--once", is_flag=True, help="Show it once and end.")
@JSON
def top(port: int | None, cluster: Path | None, once: bool, as_json: bool) -> int:
    """Show nodes, GPUs, engine and supervisor, each second.

    Without a service here: the Ray cluster of this machine, or this machine alone. With --json: one line of JSON each
    second, or one document with --once.
    """
    from raylaunch.base import console
    from raylaunch.top import live, show

    if once:
        if cluster is not None:
            from raylaunch.top import remote

            view = remote.look_once(cluster, port)
        else:
            view = live.look_once(port)
        if as_json:
            console.print_json(view.to_json())
        else:
            show.print_once(view)
        return 0
    if cluster is not None:
        from raylaunch.top import remote

        views = remote.watch(cluster, port)
    else:
        views = live.watch(port, threading.Event())
    if not as_json:
        show.run(views)
        return 0
    for view in views:
        console.print_json_line(view.to_json())
    return 0


COMMANDS = (top,)
