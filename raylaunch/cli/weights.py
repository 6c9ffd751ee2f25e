"""weights pull, check, rm: a launch's model on all nodes of the Ray cluster, else on this machine."""

import asyncio
import dataclasses
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from raylaunch.cli.options import JSON, LAUNCH, SETS, also_on_cluster, load_launch

if TYPE_CHECKING:
    from raylaunch.config.launch import LaunchConfig
    from raylaunch.weights.agents import Agents
    from raylaunch.weights.expected_files import PullRequest
    from raylaunch.weights.progress import PullResult


@click.group()
def weights() -> None:
    """Manage a launch's model: the same files at the same path on every node."""


@weights.command()
@LAUNCH
@SETS
@JSON
@click.option("--verify", is_flag=True, help="Hash every existing file, even if it passes the fast check.")
@click.option("--adopt", is_flag=True, help="Where files differ that no pull brought: take the folder as it is.")
@click.option("--replace", is_flag=True, help="Where they differ: move them aside, then fetch the model's.")
@click.option("--lanes", type=click.IntRange(1, 8), help="Parallel chains between nodes; more for faster links.")
@also_on_cluster
def pull(
    launch: Path | None,
    sets: tuple[str, ...],
    as_json: bool,
    verify: bool,
    adopt: bool,
    replace: bool,
    lanes: int | None,
) -> None:
    """Download the model once, and copy it from node to node. Files that no pull brought are never overwritten."""
    if adopt and replace:
        raise click.UsageError("--adopt keeps the files that --replace moves aside: choose one")
    loaded = load_launch(launch, sets)
    from raylaunch.base import console
    from raylaunch.weights.expected_files import PullRequest
    from raylaunch.weights.hub_types import HubAccess
    from raylaunch.weights.own_files import OwnFilesChoice, OwnFilesError
    from raylaunch.weights.progress import describe

    model, folder = loaded.model, loaded.model_folder
    if model.repo is None:
        console.say(
            f"nothing to fetch: the launch has no model.repo, so {folder} is served as it is. Every node needs it; "
            f"from here to another: {shlex.join(['rsync', '-a', '-s', f'{folder}/', f'NODE:{folder}/'])}"
        )
        return
    choice = OwnFilesChoice.ADOPT if adopt else OwnFilesChoice.REPLACE if replace else OwnFilesChoice.ASK
    access = HubAccess.of_this_process()
    request = PullRequest(
        model.repo, model.revision, folder, access, verify, choice, loaded.load_format, loaded.pull_command
    )
    agents = _gather_agents(loaded, lanes=lanes)
    try:
        result = _pull(request, agents)
    except OwnFilesError as question:
        if as_json or not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise
        console.say(f"{question.what}\n{question.fix}")
        answer = click.prompt("adopt, replace or stop", type=click.Choice(["adopt", "replace", "stop"]), err=True)
        if answer == "stop":
            raise
        result = _pull(dataclasses.replace(request, own_files=OwnFilesChoice(answer)), agents)
    console.say(describe(result), style="bold green")
    if as_json:
        console.print_json(dataclasses.asdict(result))


def _pull(request: "PullRequest", agents: "Agents") -> "PullResult":
    from raylaunch.base import console
    from raylaunch.weights import pull as pulling
    from raylaunch.weights.progress import ConsoleReporter

    with console.live_lines() as show:
        return asyncio.run(pulling.pull(request, agents, ConsoleReporter(show)))


@weights.command()
@LAUNCH
@SETS
@JSON
@click.option("--fast", is_flag=True, help="Sizes and sampled blocks instead of every byte.")
@also_on_cluster
def check(launch: Path | None, sets: tuple[str, ...], as_json: bool, fast: bool) -> None:
    """Compare every file on every node with the manifest, without the hub."""
    loaded = load_launch(launch, sets)
    from raylaunch.base import console
    from raylaunch.base.errors import WeightsError
    from raylaunch.weights import verification as checking

    model, folder = loaded.model, loaded.model_folder
    agents = _gather_agents(loaded)
    found = asyncio.run(
        checking.check(model.repo, model.revision, folder, agents, fast=fast, load_format=loaded.load_format)
    )
    if as_json:
        console.print_json(dataclasses.asdict(found))
    nodes = found.problems
    if not found.is_complete:
        rows = [(node, problem) for node, problems in found.problems.items() for problem in problems]
        console.show(console.make_table(("node", "file"), rows))
        raise WeightsError(
            f"{folder}: {len(rows)} problem(s) on {sum(map(bool, found.problems.values()))} of {len(nodes)} node(s)",
            fix=f"`{loaded.pull_command} --verify` fetches what is missing from other nodes or the hub; with --replace "
            "also what has changed: it moves the old file aside first",
        )
    console.say(
        f"{folder} is complete on {len(nodes)} node{'s' if len(nodes) > 1 else ''}: {found.files} files, "
        f"{found.total_bytes / 1e9:.2f} GB, {'sizes and samples' if fast else 'every byte'} "
        f"checked in {found.seconds:.1f} s; from {found.source}"
    )


@weights.command("rm")
@LAUNCH
@SETS
@click.option("--yes", is_flag=True, help="Do not ask.")
@also_on_cluster
def remove(launch: Path | None, sets: tuple[str, ...], yes: bool) -> None:
    """Remove the files that a pull fetched and nobody changed since, from every node; other files are kept."""
    loaded = load_launch(launch, sets)
    from raylaunch.base import console
    from raylaunch.base.errors import WeightsError
    from raylaunch.serve import service_record
    from raylaunch.weights import verification as checking

    folder = loaded.model_folder
    for running in service_record.list_services():
        if running.is_alive() and str(folder) in running.models:
            raise WeightsError(
                f"{folder} is being served on port {running.port}", fix=f"raylaunch stop --port {running.port}"
            )
    agents = _gather_agents(loaded, waits=False)
    if not yes:
        click.confirm(
            f"Remove what a pull fetched into {folder} from {len(agents.refresh())} node(s)?", abort=True, err=True
        )
    kept = asyncio.run(checking.remove(agents))
    for node, sentences in kept.items():
        for sentence in sentences:
            console.say(f"{node}: {sentence}")
    console.say(f"removed {loaded.model_name} from {', '.join(kept)}")


def _gather_agents(loaded: "LaunchConfig", *, lanes: int | None = None, waits: bool = True) -> "Agents":
    """Agents on all nodes of the Ray cluster; on this machine if none runs.

    Args:
        waits: wait for the launch's nodes, as `serve` does.
    """
    from raylaunch.base import console
    from raylaunch.cluster import ray_session
    from raylaunch.weights.agents import LocalAgents, RayAgents

    address = ray_session.find_address()
    if address is None:
        if loaded.cluster.nodes > 1:
            nodes = loaded.cluster.nodes
            console.say(f"no Ray cluster is running: using this machine alone, not the {nodes} nodes of the launch")
        return LocalAgents(loaded.model_folder)
    ray_session.join(address, env_vars={})
    if waits:
        block = loaded.cluster
        with console.live_lines() as show:
            ray_session.wait_for_gpus(
                nodes=block.nodes,
                gpus_per_node=block.gpus_per_node,
                wait_s=block.wait_s,
                report=lambda waiting: show(waiting.to_lines()),
            )
    return RayAgents(loaded.model_folder, lanes=lanes)


COMMANDS = (weights,)
