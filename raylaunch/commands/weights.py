"""weights pull, check, rm: a launch's model on all nodes of the cluster, or on this machine where there is none."""

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from raylaunch.commands import JSON, LAUNCH, SETS, load_launch

if TYPE_CHECKING:
    from raylaunch.config import LaunchConfig
    from raylaunch.weights.crew import Crew


@click.group()
def weights() -> None:
    """See to a launch's model: the same files at the same path on every node."""


@weights.command()
@LAUNCH
@SETS
@JSON
@click.option("--verify", is_flag=True, help="Read every file that is there whole, before taking it for right.")
@click.option("--lanes", type=click.IntRange(1, 8), help="Parallel chains between nodes; more for faster links.")
def pull(launch: Path | None, sets: tuple[str, ...], as_json: bool, verify: bool, lanes: int | None) -> None:
    """Bring the model to every node: from the hub once, then from node to node."""
    loaded = load_launch(launch, sets)
    from raylaunch import output
    from raylaunch.weights import pull as pulling
    from raylaunch.weights.console import ConsoleReporter
    from raylaunch.weights.hub import HubAccess
    from raylaunch.weights.result import describe
    from raylaunch.weights.survey import Order

    crew = _gather_crew(loaded, lanes=lanes)
    model = loaded.model
    order = Order(model.repo, model.revision, loaded.model_folder, HubAccess.of_this_process(), verify)
    with output.live_lines() as show:
        result = asyncio.run(pulling.pull(order, crew, ConsoleReporter(show)))
    output.say(describe(result), style="bold green")
    if as_json:
        output.print_json(asdict(result))


@weights.command()
@LAUNCH
@SETS
@JSON
@click.option("--fast", is_flag=True, help="Sizes and sampled blocks instead of every byte.")
def check(launch: Path | None, sets: tuple[str, ...], as_json: bool, fast: bool) -> None:
    """Compare every file on every node with the manifest; asks no network."""
    loaded = load_launch(launch, sets)
    from raylaunch import output
    from raylaunch.errors import WeightsError
    from raylaunch.weights import check as checking

    model, folder = loaded.model, loaded.model_folder
    crew = _gather_crew(loaded)
    found = asyncio.run(checking.check(model.repo, model.revision, folder, crew, fast=fast))
    if as_json:
        output.print_json(asdict(found))
    nodes = found.problems
    if not found.is_whole:
        rows = [(node, problem) for node, problems in found.problems.items() for problem in problems]
        output.show(output.make_table(("node", "file"), rows))
        raise WeightsError(
            f"{folder}: {len(rows)} finding(s), on {sum(map(bool, found.problems.values()))} of {len(nodes)} node(s)",
            fix=f"raylaunch weights pull --verify {launch or ''}: it mends them from the other nodes, or the hub",
        )
    output.say(
        f"{folder} is whole on {len(nodes)} node{'s' if len(nodes) > 1 else ''}: {found.files} files, "
        f"{found.total_bytes / 1e9:.2f} GB, by {'sizes and samples' if fast else 'every byte'}, {found.seconds:.1f} s; "
        f"from {found.source}"
    )


@weights.command("rm")
@LAUNCH
@SETS
@click.option("--yes", is_flag=True, help="Do not ask.")
def remove(launch: Path | None, sets: tuple[str, ...], yes: bool) -> None:
    """Remove the model from every node: the files that a pull brought, and nothing else."""
    loaded = load_launch(launch, sets)
    from raylaunch import output, service
    from raylaunch.errors import WeightsError
    from raylaunch.weights import check as checking

    folder = loaded.model_folder
    for running in service.list_services():
        if running.is_alive() and str(folder) in running.models:
            raise WeightsError(
                f"{folder} is being served on port {running.port}", fix=f"raylaunch stop --port {running.port}"
            )
    crew = _gather_crew(loaded, waits=False)
    if not yes:
        click.confirm(f"Remove {folder} from {len(crew.refresh())} node(s)?", abort=True, err=True)
    kept = asyncio.run(checking.remove(crew))
    for node, sentences in kept.items():
        for sentence in sentences:
            output.say(f"{node}: {sentence}")
    output.say(f"removed {loaded.model.repo} from {', '.join(kept)}")


def _gather_crew(loaded: "LaunchConfig", *, lanes: int | None = None, waits: bool = True) -> "Crew":
    """Porters on all nodes of the Ray cluster, or here alone where none runs.

    Args:
        waits: wait for the launch's nodes, as `serve` does.
    """
    from raylaunch import cluster, output
    from raylaunch.weights.crew import LocalCrew, RayCrew

    address = cluster.find_address()
    if address is None:
        if loaded.cluster.nodes > 1:
            nodes = loaded.cluster.nodes
            output.say(f"no Ray cluster runs here: this machine alone, not the {nodes} nodes of the launch")
        return LocalCrew(loaded.model_folder)
    cluster.join(address, env_vars={})
    if waits:
        block = loaded.cluster
        with output.live_lines() as report:
            cluster.wait_for_gpus(
                nodes=block.nodes, gpus_per_node=block.gpus_per_node, wait_s=block.wait_s, report=report
            )
    return RayCrew(loaded.model_folder, lanes=lanes)


COMMANDS = (weights,)
