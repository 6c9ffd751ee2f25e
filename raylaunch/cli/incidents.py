"""incidents, restart: what became of a service, and another launch in its place."""

import os
from pathlib import Path

import click

from raylaunch.cli.options import CLUSTER, JSON, LAUNCH, PORT, SETS, find_service, load_launch, run_on_cluster


@click.command()
@click.argument("incident", required=False, metavar="[ID|last]")
@CLUSTER
@JSON
def incidents(incident: str | None, cluster: Path | None, as_json: bool) -> int | None:
    """List the deaths and wedges of engines on this machine or on a cluster's head, or tell one of them."""
    if cluster is not None:
        return run_on_cluster(cluster, "incidents", None, incident or "", "--json" if as_json else "")
    from dataclasses import asdict

    from raylaunch.base import console
    from raylaunch.serve import incident as kept

    if incident is not None:
        found = kept.find_incident(incident)
        if as_json:
            console.print_json(asdict(found) | {"folder": str(found.folder)})
        else:
            console.print_result("\n".join(found.to_lines()))
        return None
    known = kept.list_incidents()
    if as_json:
        console.print_json([asdict(entry) | {"folder": str(entry.folder)} for entry in known])
    elif known:
        console.print_result("\n".join(f"{entry.id}  {entry.outcome:<13}  {entry.what}" for entry in known))
    else:
        console.say("no incidents on this machine")
    return None


@click.command()
@LAUNCH
@SETS
@PORT
@click.option("--timeout-s", type=float, default=7200.0, show_default=True, help="Longest wait, in seconds.")
def restart(launch: Path | None, sets: tuple[str, ...], port: int | None, timeout_s: float) -> None:
    """Swap a changed launch file into the running service; checked first, and the old engine stays if it is wrong.

    Without a file: the one that the service was started with, read anew (a --set has to be given again).
    """
    from raylaunch.base import console
    from raylaunch.config import launch_file
    from raylaunch.serve import control_socket

    service = find_service(port)
    path = launch or (Path(service.launch_file) if service.launch_file else None)
    if not any(said.startswith("server.port=") for said in sets):
        sets = (*sets, f"server.port={service.port}")  # where `serve` had it from --set
    loaded = load_launch(path, sets)
    launch_file.check_local_model(loaded)
    console.print_result(control_socket.ask(service.folder, loaded.to_json(), report=console.say, timeout_s=timeout_s))


def print_unit(launch: Path | None, sets: tuple[str, ...], *, rehearse: bool) -> None:
    """Print a systemd unit that keeps `serve` running over crashes and reboots (docs/keep-serving.md)."""
    from raylaunch.base import console, paths
    from raylaunch.serve.systemd_unit import make_unit

    loaded = load_launch(launch, sets)
    console.print_result(make_unit(loaded, sets=sets, rehearse=rehearse, home=paths.home(), environ=os.environ))


COMMANDS = (incidents, restart)
