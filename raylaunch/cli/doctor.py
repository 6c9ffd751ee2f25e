"""doctor: the machines of a cluster before Ray runs on them."""

from pathlib import Path

import click

from raylaunch.cli.options import JSON


@click.command()
@click.argument("cluster", type=click.Path(path_type=Path), metavar="CLUSTER.yaml")
@click.option("--fix", is_flag=True, help="Run the fixes that are safe, after showing them and a confirmation.")
@click.option("--yes", is_flag=True, help="With --fix: do not ask.")
@click.option(
    "--model-gb", type=click.FloatRange(min=0), help="Model's size (10^9 bytes), which must fit on each disk."
)
@JSON
def doctor(cluster: Path, fix: bool, yes: bool, model_gb: float | None, as_json: bool) -> int:
    """Check every host of a cluster, change nothing, and report what would fail; exit 1 if anything would."""
    from raylaunch.base import console
    from raylaunch.config import cluster_file
    from raylaunch.provision.doctor import diagnose as hosts_doctor

    loaded = cluster_file.load(cluster)
    console.say(f"checking {', '.join(loaded.hosts)} over ssh, up to 30 s")
    found = hosts_doctor.diagnose(loaded, model_gb=model_gb)
    if fix and found.safe_fixes:
        for verdict in found.safe_fixes:
            console.say(f"{verdict.check}, {verdict.host}: {verdict.what}")
            console.say(f"    {hosts_doctor.describe_fix(verdict, loaded)}")
        if yes or click.confirm("run these?", err=True):
            hosts_doctor.run_fixes(found, console.say)
            console.say("checking again")
            found = hosts_doctor.diagnose(loaded, model_gb=model_gb)
    elif fix:
        console.say("nothing that --fix could fix")
    if as_json:
        console.print_result(found.to_json())
    else:
        console.print_states(found.to_lines())
        console.say(found.summarize())
    return 0 if found.is_fit else 1


COMMANDS = (doctor,)
