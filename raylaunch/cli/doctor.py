"""doctor: the machines of a cluster before Ray runs on them."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from raylaunch.cli.options import JSON, LAUNCH, load_launch

if TYPE_CHECKING:
    from raylaunch.config.launch import LaunchConfig


@click.command()
@click.argument("cluster", type=click.Path(path_type=Path), metavar="CLUSTER.yaml")
@LAUNCH
@click.option("-v", "--verbose", is_flag=True, help="List the checks that are ok, too.")
@click.option("--fix", is_flag=True, help="Run the fixes that are safe, after showing them and a confirmation.")
@click.option("--yes", is_flag=True, help="With --fix: do not ask.")
@click.option(
    "--model-gb", type=click.FloatRange(min=0), help="Model's size (10^9 bytes), which must fit on each disk."
)
@JSON
def doctor(
    cluster: Path, launch: Path | None, verbose: bool, fix: bool, yes: bool, model_gb: float | None, as_json: bool
) -> int:
    """Check every host, change nothing, report what would fail. Exit 1 if anything would.

    With a launch file also its port on the head, and its model's size against every disk.
    """
    from raylaunch.base import console
    from raylaunch.config import cluster_file
    from raylaunch.provision.doctor import diagnose as hosts_doctor
    from raylaunch.provision.doctor.table import make_table, name_hosts, summarize

    loaded = cluster_file.load(cluster)
    to_serve = load_launch(launch, ()) if launch else None
    if to_serve is not None and model_gb is None:
        model_gb = _find_model_gb(to_serve)
    api_port = to_serve.port if to_serve else None
    model_path = to_serve.model.path if to_serve else None
    with console.waiting(f"checking {name_hosts(loaded.hosts)} over ssh, up to 30 s"):
        found = hosts_doctor.diagnose(loaded, model_gb=model_gb, model_path=model_path, api_port=api_port)
    if fix and found.safe_fixes:
        for verdict in found.safe_fixes:
            console.say(f"{verdict.check}, {verdict.host}: {verdict.what}")
            console.say(f"    {hosts_doctor.describe_fix(verdict, loaded)}")
        if yes or click.confirm("run these?", err=True):
            hosts_doctor.run_fixes(found, console.say)
            console.say("checking again")
            found = hosts_doctor.diagnose(loaded, model_gb=model_gb, model_path=model_path, api_port=api_port)
    elif fix:
        console.say("nothing that --fix could fix")
    if as_json:
        console.print_result(found.to_json())
    else:
        width = console.find_width(stdout=True)
        console.print_states(make_table(found, verbose=verbose, width=width, lists_by="-v"))
        console.say(summarize(found, f"raylaunch up {loaded.shown_path}"))
    return 0 if found.is_fit else 1


def _find_model_gb(launch: "LaunchConfig") -> float | None:
    """The size of the launch's model by the hub's list, in 10^9 bytes; None, with a warning, where there is none."""
    from raylaunch.base import console
    from raylaunch.base.errors import WeightsError
    from raylaunch.weights import hub
    from raylaunch.weights.hub_types import HubAccess

    access, repo = HubAccess.of_this_process(), launch.model.repo
    why = hub.explain_unreachable(access.endpoint) if repo else "the launch has no model.repo"
    if repo and not why:
        try:
            files = hub.list_repo(repo, launch.model.revision, access, launch.load_format).files
            return sum(file.size for file in files.values()) / 1e9
        except WeightsError as error:
            why = error.what
    console.say(f"warning: the size of {launch.model_name} is unknown; give it with --model-gb", style="yellow")
    console.say(f"    {why}")
    return None


COMMANDS = (doctor,)
