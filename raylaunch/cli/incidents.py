"""incidents, restart: past faults of a service, and another launch in its place."""

import os
from pathlib import Path

import click

from raylaunch.cli.options import (
    CLUSTER,
    JSON,
    LAUNCH,
    PORT,
    SETS,
    find_service,
    load_launch,
    report_interrupt,
    run_on_cluster,
)


@click.command()
@click.argument("incident", required=False, metavar="[ID|last]")
@CLUSTER
@JSON
def incidents(incident: str | None, cluster: Path | None, as_json: bool) -> int | None:
    """List how engines died or hung here, or show one such incident."""
    if cluster is not None:
        return run_on_cluster(cluster, "incidents", None, incident or "", "--json" if as_json else "")
    from dataclasses import asdict

    from raylaunch.base import console
    from raylaunch.base.viewpoint import Viewpoint
    from raylaunch.serve.incident import find_incident, list_incidents

    if incident is not None:
        found = find_incident(incident)
        if as_json:
            console.print_json(asdict(found) | {"folder": str(found.folder)})
        else:
            console.print_result("\n".join(found.to_lines()))
        return None
    known = list_incidents()
    if as_json:
        console.print_json([asdict(entry) | {"folder": str(entry.folder)} for entry in known])
    elif known:
        console.print_result("\n".join(f"{entry.id}  {entry.outcome:<13}  {entry.what}" for entry in known))
    else:
        console.say(f"no incidents on {Viewpoint.of_this_process().place}")
    return None


@click.command()
@LAUNCH
@SETS
@PORT
@CLUSTER
@click.option("--timeout-s", type=float, default=7200.0, show_default=True, help="Longest wait, in seconds.")
def restart(
    launch: Path | None, sets: tuple[str, ...], port: int | None, cluster: Path | None, timeout_s: float
) -> int | None:
    """Serve a changed launch file, on the same address.

    It is checked first; if it is wrong, the old engine stays. Without a file: the one that the service was started
    with, read again (repeat any --set).
    """
    from raylaunch.base import console
    from raylaunch.config import launch_file
    from raylaunch.serve.control_socket import request_restart

    if cluster is not None:
        if launch is None:
            raise click.UsageError("with --cluster, name the launch file: the changed one is sent to the head")
        from raylaunch.config import cluster_file
        from raylaunch.provision import remote_launch

        sets = sets if port is None else (*sets, f"server.port={port}")
        file, changed = cluster_file.load(cluster), load_launch(launch, sets)
        words = [f"--port={changed.port}", f"--timeout-s={timeout_s}"]
        with report_interrupt(f"stopped; `{remote_launch.viewpoint_of(file).command('status')}` shows what is served"):
            return remote_launch.run_with_launch(file, changed, ["restart"], words, outlives=True)
    service = find_service(port)
    path = launch or (Path(service.launch_file) if service.launch_file else None)
    if not any(setting.startswith("server.port=") for setting in sets):
        sets = (*sets, f"server.port={service.port}")  # `serve` may have it from --set
    loaded = load_launch(path, sets)
    launch_file.check_local_model(loaded)
    console.print_result(request_restart(service.folder, loaded, report=console.say, timeout_s=timeout_s))
    return None


def print_unit(launch: Path | None, sets: tuple[str, ...], *, rehearse: bool) -> None:
    """Print a systemd unit that restarts `serve` after crashes and reboots (docs/keep-serving.md)."""
    from raylaunch.base import console, paths
    from raylaunch.serve.systemd_unit import make_unit

    loaded = load_launch(launch, sets)
    console.print_result(make_unit(loaded, sets=sets, rehearse=rehearse, home=paths.home(), environ=os.environ))


COMMANDS = (incidents, restart)
