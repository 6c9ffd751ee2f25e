"""explain: what broke, on which machine, and what to do."""

import contextlib
from pathlib import Path

import click

from raylaunch.cli.options import JSON, PORT

_MOST_PROCESSES = 8


@click.command()
@click.argument("logs", nargs=-1, type=click.Path(path_type=Path, allow_dash=True), metavar="[LOG...|-]")
@PORT
@click.option("--cluster", type=click.Path(path_type=Path), metavar="CLUSTER.yaml",
              help="Fetch the logs of all its hosts, whether Ray runs there or not.")  # fmt: skip
@JSON
def explain(logs: tuple[Path, ...], port: int | None, cluster: Path | None, as_json: bool) -> int:
    """Explain a failure from logs: cause, place, evidence, fix.

    LOG is a file, a folder (as Ray's session folder) or - for stdin: logs of vLLM, Ray, NCCL, PyTorch, docker, pip or
    the kernel, plain or .gz. Without one: the service on this machine, or its last incident. Exit 1 where no cause is
    found.
    """
    import os
    from dataclasses import replace

    from raylaunch.base import console
    from raylaunch.explain import read, report
    from raylaunch.explain.signatures import SYMPTOM_BELOW
    from raylaunch.serve.last_failure import explain_incident, find_last_logs

    with contextlib.ExitStack() as stack:
        sources = read.find_logs(logs)
        if cluster is not None:
            from raylaunch.config import cluster_file
            from raylaunch.provision.host_logs import fetch_logs

            file = cluster_file.load(cluster)
            console.say(f"fetching the logs of {', '.join(file.hosts)}")
            sources += stack.enter_context(fetch_logs(file))
        elif not logs:
            sources = read.find_logs(find_last_logs(port))
        show = stack.enter_context(console.live_lines())
        found = read.explain_logs(
            sources,
            lambda text: show([console.ProgressLine("reading logs", "", text)]),
            processes=min(_MOST_PROCESSES, os.cpu_count() or 1),
        )
    is_vague = not found.causes or found.causes[0].weight < SYMPTOM_BELOW  # what the supervisor ended looks killed
    if is_vague and not logs and cluster is None and (cause := explain_incident(port)):
        same = [seen for seen in found.causes if seen.key == cause.key]
        found = replace(found, causes=tuple(same) or (cause,), first_errors=())
    if as_json:
        console.print_json(report.to_json(found))
    else:
        console.print_result("\n".join(report.to_lines(found)))
    return 0 if found.causes else 1


COMMANDS = (explain,)
