"""top: what every node and GPU, the engine and its supervisor do right now."""

import threading

import click

from raylaunch.commands import JSON, PORT


@click.command()
@PORT
@click.option("--once", is_flag=True, help="Show it once and end.")
@JSON
def top(port: int | None, once: bool, as_json: bool) -> None:
    """Show all nodes and GPUs, the engine and its supervisor on one screen, each second.

    Without a service here: the Ray cluster of this machine, or this machine alone. With --json: one line of JSON each
    second, or one document with --once.
    """
    from raylaunch import output
    from raylaunch.top import live, show

    if once:
        view = live.look_once(port)
        if as_json:
            output.print_json(view.to_json())
        else:
            show.print_once(view)
    elif as_json:
        for view in live.watch(port, threading.Event()):
            output.print_json_line(view.to_json())
    else:
        show.run(live.watch(port, threading.Event()))


COMMANDS = (top,)
