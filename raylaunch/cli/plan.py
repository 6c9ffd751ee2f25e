"""plan: which layouts of a model fit on which GPUs, before anything is loaded."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from raylaunch.cli.options import JSON, SETS, load_launch

if TYPE_CHECKING:
    from collections.abc import Callable

    from raylaunch.config.launch import LaunchConfig
    from raylaunch.plan.gpus import ClusterGpus, Fleet
    from raylaunch.plan.report import Plan


@click.command()
@click.argument("what", required=False, metavar="[LAUNCH.yaml | MODEL]")
@SETS
@click.option("--gpus", metavar="2x8x4090", help="Machines x GPUs x kind; unequal machines joined by +.")
@click.option("--cluster", type=click.Path(path_type=Path), metavar="CLUSTER.yaml", help="Plan on that cluster's GPUs.")
@click.option("--network-gbit-s", type=float, help="Link between the machines; default what netcheck measured, or 10.")
@click.option("--context", type=click.IntRange(min=1), help="Count requests of this many tokens.")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="LAUNCH.yaml", help="Write the best launch.")
@click.option("--ask-vllm", is_flag=True, help="Ask vLLM itself about the first layouts (7 to 60 s).")
@click.option("--force", is_flag=True, help="Exit with 0 even if the launch's own layout cannot fit.")
@JSON
def plan(
    what: str | None,
    sets: tuple[str, ...],
    gpus: str | None,
    cluster: Path | None,
    network_gbit_s: float | None,
    context: int | None,
    output: Path | None,
    ask_vllm: bool,
    force: bool,
    as_json: bool,
) -> int | None:
    """Show which layouts of a model fit, without loading it.

    It reads config.json, and takes named GPUs or a cluster's. MODEL is a folder, or a repo of the hub, whose weights
    are not fetched.
    """
    from functools import partial

    from raylaunch.base import console
    from raylaunch.base.errors import ExitCode
    from raylaunch.plan import report

    launch, is_launch = _read_launch(what, sets)
    fleet = _find_fleet(gpus, cluster, launch, network_gbit_s)
    ask = None if not ask_vllm else _ask_here if cluster is None else partial(_ask_cluster, cluster)
    made = make_plan(launch, fleet, is_named=is_launch, context=context, ask=ask)
    if as_json:
        console.print_json(report.to_json(made))
    else:
        console.print_result("\n".join(report.to_lines(made)))
    judged = made.named or made.layouts[0]
    if output is not None:
        _write_launch(output, made, launch)
    return None if judged.fits or force else ExitCode.FAILED


def _read_launch(what: str | None, sets: tuple[str, ...]) -> "tuple[LaunchConfig, bool]":
    """The launch that `what` means, and whether it is a launch file (or the demo)."""
    if what is None or what.endswith((".yaml", ".yml")):
        return load_launch(Path(what) if what else None, sets), True
    from dataclasses import replace
    from types import MappingProxyType

    folder = Path(what)
    if folder.name == "config.json" and folder.is_file():
        folder = folder.parent
    is_path = folder.is_dir() or what.startswith(("/", "./", "../", "~"))
    kind = f"model.path={folder.expanduser().absolute()}" if is_path else f"model.repo={what}"
    loaded = load_launch(None, (kind, *sets))
    # Without a file the demo's settings apply, which are another model's.
    own = {name: value for name, value in loaded.engine.items() if _is_set(loaded, f"engine.{name}")}
    return replace(loaded, engine=MappingProxyType(own)), False


def _is_set(launch: "LaunchConfig", key: str) -> bool:
    source = launch.sources.get(key)
    return source is not None and source.kind in ("flag", "variable")


def _find_fleet(
    gpus: str | None, cluster: Path | None, launch: "LaunchConfig", network_gbit_s: float | None
) -> "Fleet":
    from raylaunch.base.errors import LaunchFileError
    from raylaunch.cluster import ray_session
    from raylaunch.plan import gpus as kinds

    if gpus is not None:
        fleet = kinds.parse_gpus(gpus, network_gbit_s)
        return fleet if cluster is None else kinds.apply_rates(fleet, _read_cluster(cluster), network_gbit_s)
    if cluster is not None or ray_session.find_address() is not None:
        return kinds.read_cluster(_read_cluster(cluster), network_gbit_s)
    raise LaunchFileError(
        "the GPUs are not named, and no Ray runs here",
        fix=f"add --gpus {launch.cluster.nodes}x{launch.cluster.gpus_per_node}x4090 (machines x GPUs x kind), "
        "or --cluster CLUSTER.yaml",
    )


def _read_cluster(cluster: Path | None) -> "ClusterGpus":
    """The GPUs of a cluster, or of the Ray that runs here."""
    from pydantic import TypeAdapter

    from raylaunch.plan.gpus import ClusterGpus

    if cluster is None:
        return _list_gpus()
    from raylaunch.config import cluster_file
    from raylaunch.provision import remote

    answer = "".join(remote.read_lines(cluster_file.load(cluster), ["cluster-gpus"]))
    return TypeAdapter(ClusterGpus).validate_json(answer)


def _list_gpus() -> "ClusterGpus":
    from raylaunch.plan.gpus import ClusterGpus
    from raylaunch.preflight.network.memory import recall_rates
    from raylaunch.preflight.run import list_gpus

    nodes = list_gpus()
    known = recall_rates([node.ip for node in nodes])
    return ClusterGpus(
        [[(gpu.name, gpu.usable_bytes) for gpu in node.gpus] for node in nodes],
        known.network_bytes_s if known else 0.0,
        known.peer_bytes_s if known else 0.0,
    )


@click.command("cluster-gpus", hidden=True)
def cluster_gpus() -> None:
    """Print GPUs and link rates of the Ray cluster that this machine is in: `plan --cluster` runs it."""
    from dataclasses import asdict

    from raylaunch.base import console

    console.print_json_line(asdict(_list_gpus()))


@click.command("ask-vllm", hidden=True)
@click.argument("question", type=click.Path(path_type=Path))
def ask_vllm(question: Path) -> None:
    """Ask vLLM on a GPU node of this cluster, as a Ray task: `plan --cluster --ask-vllm` runs it."""
    from raylaunch.base import console

    file = Path.home() / question
    text = file.read_text(encoding="utf-8")
    file.unlink()
    console.print_result(_ask_here(text))


def _ask_here(question: str) -> str:
    """The answer of vLLM on a GPU node of the Ray that runs here; of the vLLM installed here where none runs."""
    from raylaunch.cluster import ray_session
    from raylaunch.plan import asked

    if ray_session.find_address() is None:
        return asked.ask_installed(question)
    from raylaunch.preflight.run import ask_on_node

    return asked.ask_by(ask_on_node, question)


def _ask_cluster(cluster: Path, question: str) -> str:
    """The answer of the vLLM in a cluster's image."""
    import secrets

    from raylaunch.config import cluster_file
    from raylaunch.provision import remote, remote_launch
    from raylaunch.provision.host_shell import HostShell

    loaded, name = cluster_file.load(cluster), f"question-{secrets.token_hex(4)}.json"
    remote_launch.send_file(HostShell.of(loaded), question, name)
    return "".join(remote.read_lines(loaded, ["ask-vllm", f"{remote_launch.LAUNCHES}/{name}"]))


def make_plan(
    launch: "LaunchConfig",
    fleet: "Fleet",
    *,
    is_named: bool,
    context: int | None,
    ask: "Callable[[str], str] | None" = None,
) -> "Plan":
    """The plan of a launch on a fleet; of its model only config.json and headers are read.

    Args:
        ask: asks vLLM about the first layouts (plan/asked.py).
    """
    from dataclasses import replace

    from raylaunch.plan.forecast import make_model
    from raylaunch.plan.history import recall
    from raylaunch.plan.layout import Planner
    from raylaunch.plan.layouts import list_layouts
    from raylaunch.plan.report import Plan
    from raylaunch.plan.settings import read_settings
    from raylaunch.weights import model_files
    from raylaunch.weights.hub_types import HubAccess

    folder = launch.model_folder
    repo = launch.model.repo
    if (folder / "config.json").is_file() or (launch.model.path and not is_named) or repo is None:
        files = model_files.read_folder(folder)
    else:
        files = model_files.read_repo(repo, launch.model.revision, HubAccess.of_this_process())
    settings = read_settings(launch)
    if not is_named:  # no launch asks for a length: the longest that fits will do
        settings = replace(settings, named=None, fits_length=settings.max_model_len is None)
    tensors = [(tensor.name, tensor.kind, tensor.size) for tensor in files.tensors]
    model = make_model(files.config, tensors, settings, files.where)
    planner = Planner(model, fleet, settings, context)
    layouts = list_layouts(planner, lambda layout: recall(planner, layout, repo or str(folder)))
    if ask is not None:
        from raylaunch.plan.asked import ask_about

        layouts = ask_about(planner, layouts, files.config, launch.engine, ask)
    name = repo if repo and (is_named or not launch.model.path) else folder.name
    return Plan(name, model.shape, model.measure_all(), fleet, tuple(layouts))


def _write_launch(output: Path, made: "Plan", launch: "LaunchConfig") -> None:
    from raylaunch.base import console
    from raylaunch.base.errors import LaunchFileError
    from raylaunch.plan import report
    from raylaunch.plan.settings import read_settings

    if not made.layouts[0].fits:
        raise LaunchFileError(f"nothing fits, so {output} is not written", fix="name more or larger GPUs")
    if len(sizes := sorted({machine.gpus for machine in made.fleet.machines})) > 1:
        raise LaunchFileError(
            f"machines with {' and '.join(map(str, sizes))} GPUs: cluster.gpus_per_node is one number, so {output} is "
            "not written",
            fix="plan machines with equally many GPUs",
        )
    share = read_settings(launch).gpu_memory_utilization
    path = launch.model.path or (f"/data/{made.name.rpartition('/')[2]}" if len(made.fleet.machines) > 1 else None)
    set_here = {name: value for name, value in launch.engine.items() if launch.sources.get(f"engine.{name}")}
    repo = launch.model.repo if launch.model.repo == made.name else None  # of a folder it is the demo's
    written = report.to_launch_text(made, made.layouts[0], repo, path, share, set_here)
    try:
        output.write_text(written)
    except OSError as error:
        raise LaunchFileError(f"cannot write {output}: {error.strerror}", fix="name another file with -o") from None
    console.say(f"wrote {output}")


COMMANDS = (plan, cluster_gpus, ask_vllm)
