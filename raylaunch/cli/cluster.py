"""init, up, down, dashboard: start and stop hosts as one Ray cluster, from this machine."""

import sys
from pathlib import Path

import click

from raylaunch.cli.options import CLUSTER as ON_CLUSTER
from raylaunch.cli.options import PORT, load_launch, report_interrupt, run_on_cluster
from raylaunch.config import cluster_ports, defaults

CLUSTER = click.argument("cluster", type=click.Path(path_type=Path), metavar="CLUSTER.yaml")


@click.command()
@click.argument("file", default="cluster.yaml", type=click.Path(path_type=Path), metavar="[CLUSTER.yaml]")
@click.option("--hosts", help="Addresses, separated by commas, the head first.", metavar="A,B[,C...]")
@click.option("--user", help="User who logs in there and may use docker.")
@click.option("--key", default=defaults.SSH_KEY, show_default=True, help="Private key for every host.")
@click.option("--image", help="Image with Ray and raylaunch; without it, each host builds raylaunch's.")
@click.option(
    "--data", default=defaults.MODELS_FOLDER, show_default=True, help="Folder of the models, the same on every host."
)
@click.option("--name", help="Name of the cluster.  [default: the file's name]")
@click.option("--force", is_flag=True, help="Overwrite an existing file.")
def init(
    file: Path,
    hosts: str | None,
    user: str | None,
    key: str,
    image: str | None,
    data: str,
    name: str | None,
    force: bool,
) -> None:
    """Write a cluster file, the token and the image's layer.

    Without --hosts, for an existing file: only token and layer, for plain `ray up`.
    """
    from raylaunch.base import console
    from raylaunch.config import cluster_file
    from raylaunch.provision import artifacts, template

    if hosts:
        if not user:
            raise click.UsageError("--hosts needs --user, who logs in there")
        if file.exists() and not force:
            raise click.UsageError(f"{file} exists: --force overwrites it")
        plan = template.ClusterPlan(
            hosts=template.parse_hosts(hosts), user=user, key=key, image=image or template.LAYER_IMAGE, data=data,
            name=name or template.name_after(file),
        )  # fmt: skip
        cluster = template.write(plan, file)
    elif not file.exists():
        raise click.UsageError(f"{file} does not exist; --hosts A,B --user U writes it")
    else:
        cluster = cluster_file.load(file)
    with report_interrupt(f"stopped: {file} is written; `raylaunch init {cluster.shown_path}` continues"):
        folder = artifacts.write_kit(cluster)
    console.say(f"{file}: {len(cluster.hosts)} hosts, head {cluster.head_ip}")
    console.say(f"token and image layer: {folder}")
    if hosts and not Path(key).expanduser().is_file():
        console.say(f"warning: {key} does not exist yet: create it, or set auth.ssh_private_key", style="yellow")
    console.say(f"next: raylaunch doctor {cluster.shown_path}")


@click.command()
@CLUSTER
@click.option("--image-archive", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Load the image from this file of `docker save` where it is missing.")  # fmt: skip
@click.option("--serve", "launch_file", type=click.Path(path_type=Path), metavar="LAUNCH.yaml", help="Then serve it.")
@click.option("--rehearse", is_flag=True, help="With --serve: with a stand-in model on logical GPUs.")
@click.option(
    "--wait-s",
    type=click.FloatRange(min=1),
    default=defaults.UP_WAIT_S,
    show_default=True,
    help="Longest wait in seconds.",
)
def up(cluster: Path, image_archive: Path | None, launch_file: Path | None, rehearse: bool, wait_s: float) -> None:
    """Start the hosts as one Ray cluster. Hosts that are up stay as they are."""
    from raylaunch.config import cluster_file
    from raylaunch.provision import up as cluster_up

    if rehearse and launch_file is None:
        raise click.UsageError("--rehearse needs --serve")
    from raylaunch.base import console

    file = cluster_file.load(cluster)
    loaded = load_launch(launch_file, ()) if launch_file else None
    path = file.shown_path
    with report_interrupt(
        "stopped; hosts that have joined stay. next:\n"
        f"  raylaunch up {path}  # continues\n  raylaunch down {path}  # removes everything"
    ):
        cluster_up.up(file, archive=image_archive, wait_s=wait_s)
    if loaded is not None:
        from raylaunch.provision import remote

        remote.serve(file, loaded, rehearse=rehearse, detach=False, with_key=True)
        return
    console.say(f"next: raylaunch weights pull LAUNCH.yaml --cluster {path}")
    console.say(f"      raylaunch serve LAUNCH.yaml --cluster {path}")


@click.command()
@CLUSTER
@click.option("--yes", is_flag=True, help="Do not ask, even if it serves.")
def down(cluster: Path, yes: bool) -> None:
    """Take the cluster down, and check that nothing of it is left."""
    from raylaunch.base.errors import ClusterError
    from raylaunch.config import cluster_file
    from raylaunch.provision import artifacts
    from raylaunch.provision import down as teardown

    file = cluster_file.load(cluster)
    artifacts.check_owner(file)
    if not yes and (serving := teardown.list_services(file)):
        what = ", ".join(f"{model} on port {port}" for port, model in serving.items())
        what = f"{file.cluster_name} serves {what}"
        if not sys.stdin.isatty():
            raise ClusterError(what, fix=f"`raylaunch down {file.shown_path} --yes` takes it down all the same")
        click.confirm(f"{what}: take it down?", abort=True, err=True)
    with report_interrupt(f"stopped: parts of it may be left; `raylaunch down {file.shown_path}` continues"):
        teardown.down(file)


@click.command()
@CLUSTER
@click.option("--port", type=int, default=cluster_ports.DASHBOARD, show_default=True, help="On this machine.")
def dashboard(cluster: Path, port: int) -> None:
    """Forward a port to Ray's dashboard, until Ctrl-C. It listens on the head's loopback only."""
    from raylaunch.config import cluster_file
    from raylaunch.provision import remote

    remote.hold_dashboard(cluster_file.load(cluster), port)


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Go on as it grows, until Ctrl-C.")
@PORT
@click.option("--replica", type=click.IntRange(min=0), default=0, help="Of several engines, which one: 0, 1, ...")
@ON_CLUSTER
def logs(follow: bool, port: int | None, replica: int, cluster: Path | None) -> int | None:
    """Show the log of the engine, running or ended last."""
    if cluster is None:
        from raylaunch.base import console
        from raylaunch.serve import logs as logfile

        log, runs = logfile.find_log(port, replica)
        if not runs:
            console.say(f"nothing serves now: the log of the last service on port {log.parent.name}")
        if replica == 0 and log.with_name(logfile.name_log(1)).exists():
            console.say("replica 0; --replica=1 shows the next one")
        logfile.show(log, follow=follow and runs)
        return None
    which = f"--replica={replica}"
    if not follow:
        return run_on_cluster(cluster, "logs", port, which)
    from raylaunch.config import cluster_file
    from raylaunch.provision import remote

    return remote.follow_verb(cluster_file.load(cluster), ["logs", "-f", which], port)


COMMANDS = (init, up, down, dashboard, logs)
