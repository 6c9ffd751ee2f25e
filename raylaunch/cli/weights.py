"""weights pull, check, rm: a launch's model on all nodes of the Ray cluster, else on this machine."""

import dataclasses
import itertools
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from raylaunch.cli.options import JSON, LAUNCH, SETS, also_on_cluster, load_launch

if TYPE_CHECKING:
    from raylaunch.config.launch import LaunchConfig
    from raylaunch.node.companion import Companion
    from raylaunch.weights.agents import Agents
    from raylaunch.weights.expected_files import PullRequest
    from raylaunch.weights.progress import PullResult
    from raylaunch.weights.verification import CheckResult


@click.group()
def weights() -> None:
    """Bring the same model files onto every node; check, remove them."""


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
    from raylaunch.config.companions import list_fetched
    from raylaunch.weights.expected_files import PullRequest
    from raylaunch.weights.hub_types import HubAccess
    from raylaunch.weights.own_files import OwnFilesChoice
    from raylaunch.weights.progress import describe

    model, folder = loaded.model, loaded.model_folder
    choice = OwnFilesChoice.ADOPT if adopt else OwnFilesChoice.REPLACE if replace else OwnFilesChoice.ASK
    access = HubAccess.of_this_process()
    command = loaded.pull_command
    requests = [
        PullRequest(found.repo, found.revision, Path(found.folder), access, verify, choice, _format_of(found), command)
        for found in list_fetched(loaded)
        if found.repo
    ]
    if model.repo is None:
        console.say(
            f"nothing to fetch: the launch has no model.repo, so {folder} is served as it is. Every node needs it; "
            f"from here to another: {shlex.join(['rsync', '-a', '-s', f'{folder}/', f'NODE:{folder}/'])}"
        )
    else:
        own = PullRequest(model.repo, model.revision, folder, access, verify, choice, loaded.load_format, command)
        requests.insert(0, own)
    results = []
    for number, request in enumerate(requests):
        agents = _gather_agents(loaded, request.folder, lanes=lanes, waits=number == 0)
        results.append(_pull_or_ask(request, agents, may_ask=not as_json))
        console.say(describe(results[-1]), style="bold green")
    console.say(f"next: {loaded.command('serve')}")
    if as_json and results:
        first, *others = map(dataclasses.asdict, results)
        console.print_json({**first, "companions": others} if others else first)


def _format_of(companion: "Companion") -> str:
    """The load format whose weights are fetched: none for a tokenizer."""
    from raylaunch.node.companion import CompanionKind

    return "dummy" if companion.kind is CompanionKind.TOKENIZER else companion.load_format


def _pull_or_ask(request: "PullRequest", agents: "Agents", *, may_ask: bool) -> "PullResult":
    """Pull; on a terminal ask what shall become of files of the user that differ."""
    from raylaunch.base import console
    from raylaunch.weights.own_files import OwnFilesChoice, OwnFilesError

    try:
        return _pull(request, agents)
    except OwnFilesError as question:
        if not may_ask or not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise
        console.say(f"{question.what}\n{question.fix}")
        answer = click.prompt("adopt, replace or stop", type=click.Choice(["adopt", "replace", "stop"]), err=True)
        if answer == "stop":
            raise
        return _pull(dataclasses.replace(request, own_files=OwnFilesChoice(answer)), agents)


def _pull(request: "PullRequest", agents: "Agents") -> "PullResult":
    import asyncio

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
    import asyncio

    from raylaunch.base import console
    from raylaunch.config.companions import list_fetched
    from raylaunch.weights import verification as checking

    model, folder = loaded.model, loaded.model_folder
    asked = [(model.repo, model.revision, folder, loaded.load_format)]
    asked += [(found.repo, found.revision, Path(found.folder), _format_of(found)) for found in list_fetched(loaded)]
    results = []
    for number, (repo, revision, place, load_format) in enumerate(asked):
        agents = _gather_agents(loaded, place, waits=number == 0)
        checked = checking.check(
            repo, revision, place, agents, fast=fast, load_format=load_format, pull_command=loaded.pull_command
        )
        results.append(asyncio.run(checked))
    if as_json:
        first, *others = map(dataclasses.asdict, results)
        console.print_json({**first, "companions": others} if others else first)
    for found in sorted(results, key=lambda found: not found.is_complete):
        _conclude_check(loaded, found)


def _conclude_check(loaded: "LaunchConfig", found: "CheckResult") -> None:
    """Print the result for one folder.

    Raises:
        WeightsError: it has problems.
    """
    from raylaunch.base import console
    from raylaunch.base.errors import WeightsError

    nodes, folder = found.problems, found.folder
    if not found.is_complete:
        rows = [(node, problem) for node, problems in found.problems.items() for problem in problems]
        console.show(console.make_table(("node", "file"), rows))
        fix = (
            f"`{loaded.pull_command} --verify` fetches what is missing from other nodes or the hub; with --replace "
            "also what has changed: it moves the old file aside first"
        )
        if found.repo == folder:
            fix = "copy the missing files there, as from a node that has them, or set model.repo to fetch them"
        raise WeightsError(
            f"{folder}: {len(rows)} problem(s) on {sum(map(bool, found.problems.values()))} of {len(nodes)} node(s)",
            fix=fix,
        )
    console.say(
        f"{folder} is complete on {len(nodes)} node{'s' if len(nodes) > 1 else ''}\n    {found.files} files, "
        f"{found.total_bytes / 1e9:.2f} GB, {'sizes and samples' if found.fast else 'every byte'} "
        f"checked in {found.seconds:.1f} s\n    from {found.source}"
    )


@weights.command("rm")
@LAUNCH
@SETS
@click.option("--yes", is_flag=True, help="Do not ask.")
@also_on_cluster
def remove(launch: Path | None, sets: tuple[str, ...], yes: bool) -> None:
    """Remove the files that a pull fetched and that are unchanged since, from every node; other files are kept."""
    loaded = load_launch(launch, sets)
    import asyncio

    from raylaunch.base import console
    from raylaunch.base.errors import WeightsError
    from raylaunch.base.viewpoint import Viewpoint
    from raylaunch.config.companions import list_fetched
    from raylaunch.serve import service_record
    from raylaunch.weights import verification as checking

    folders = [loaded.model_folder, *(Path(found.folder) for found in list_fetched(loaded))]
    for running, folder in itertools.product(service_record.list_services(), folders):
        loads = (*running.model_folders, *running.models)  # one of an older raylaunch has its path as a name only
        if running.is_alive() and folder.resolve() in map(Path.resolve, map(Path, loads)):
            stop = Viewpoint.of_this_process().command("stop", f"--port={running.port}")
            raise WeightsError(f"{folder} is being served on port {running.port}", fix=f"`{stop}`")
    gathered = [_gather_agents(loaded, folder, waits=False) for folder in folders]
    if not yes:
        named, nodes = ", ".join(map(str, folders)), len(gathered[0].refresh())
        click.confirm(f"Remove what a pull fetched into {named} from {nodes} node(s)?", abort=True, err=True)
    failure: WeightsError | None = None
    for folder, agents in zip(folders, gathered, strict=True):
        try:
            kept = asyncio.run(checking.remove(agents))
        except WeightsError as error:
            failure = failure or error
            continue
        for node, sentences in kept.items():
            for sentence in sentences:
                console.say(f"{node}: {sentence}")
        name = loaded.model_name if folder == loaded.model_folder else folder
        console.say(f"removed {name} from {', '.join(kept)}")
    if failure:
        raise failure


def _gather_agents(loaded: "LaunchConfig", folder: Path, *, lanes: int | None = None, waits: bool = True) -> "Agents":
    """Agents for a folder on all nodes of the Ray cluster; on this machine if none runs.

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
        return LocalAgents(folder)
    import ray

    if not ray.is_initialized():  # else joined for another folder
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
    return RayAgents(folder, lanes=lanes)


COMMANDS = (weights,)
