"""serve, config, schema, ask, status, stop: one service on this machine."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from raylaunch.cli import incidents
from raylaunch.cli.options import (
    CLUSTER,
    JSON,
    LAUNCH,
    PORT,
    SETS,
    find_service,
    load_launch,
    make_tls,
    report_interrupt,
    run_on_cluster,
    tls_options,
)

if TYPE_CHECKING:
    from raylaunch.serve.ask import Piece


@click.command()
@LAUNCH
@SETS
@click.option("--rehearse", is_flag=True, help="Run the same layout here on logical GPUs, with a stand-in model.")
@CLUSTER
@click.option("--detach", is_flag=True, help="With --cluster: return once the service is handed over.")
@click.option("--open-api", is_flag=True, help="With --cluster: create no API key where the launch has none.")
@click.option("--force", is_flag=True, help="Start although plan or netcheck refuses.")
@click.option("--locked", is_flag=True, help="Refuse to start where something differs from LAUNCH.lock.yaml.")
@click.option("--systemd", is_flag=True, help="Print a systemd unit for this service, and exit.")
def serve(
    launch: Path | None,
    sets: tuple[str, ...],
    rehearse: bool,
    cluster: Path | None,
    detach: bool,
    open_api: bool,
    force: bool,
    locked: bool,
    systemd: bool,
) -> None:
    """Serve a launch until Ctrl-C. Without a file: the small demo model."""
    if force:
        sets = (*sets, "keep.force=true")
    if locked:
        sets = (*sets, "keep.locked=true")
    if systemd:
        incidents.print_unit(launch, sets, rehearse=rehearse)
        return
    loaded = load_launch(launch, sets)
    if cluster is not None:
        from raylaunch.config import cluster_file
        from raylaunch.provision import remote, remote_launch

        file = cluster_file.load(cluster)
        with report_interrupt(f"stopped; `{remote_launch.viewpoint_of(file).command('status')}` shows what serves"):
            remote.serve(file, loaded, rehearse=rehearse, detach=detach, with_key=not open_api)
        return
    from raylaunch.base import console
    from raylaunch.config.removed_options import find_ignored_here
    from raylaunch.serve import supervisor

    for removed in find_ignored_here(os.environ):
        console.say(f"warning: vLLM ignores a variable of this environment: {removed}", style="yellow")
    supervisor.serve(loaded, rehearse=rehearse)


@click.command()
@LAUNCH
@SETS
@JSON
def config(launch: Path | None, sets: tuple[str, ...], as_json: bool) -> None:
    """Check a launch; show its values and where each comes from."""
    from raylaunch.base import console
    from raylaunch.config import launch_file

    loaded = load_launch(launch, sets)
    rows = launch_file.describe_rows(loaded)
    if as_json:
        console.print_json({key: {"value": value, "source": source} for key, value, source in rows})
        return
    width = max(len(key) for key, _, _ in rows)
    for key, value, source in rows:
        console.print_result(f"{key:<{width}} = {launch_file.format_value(value)}  ({source})")


@click.command()
def schema() -> None:
    """Print the JSON Schema of launch files, for editors. It is that of the vLLM installed here."""
    from raylaunch.base import console
    from raylaunch.config.schema import find_schema

    console.print_result(find_schema().to_text().rstrip())


@click.command("ask")
@click.argument("question", required=False)
@click.option("--max-tokens", type=click.IntRange(min=1), help="Longest answer, in tokens.")
@click.option("--url", help="URL of the server; default: the service of this machine.")
@click.option("--model", help="Model name; default: the server's first.")
@click.option("--timeout-s", type=float, default=300.0, show_default=True, help="Longest silence, in seconds.")
@tls_options
@PORT
@CLUSTER
def ask_question(
    question: str | None,
    max_tokens: int | None,
    url: str | None,
    model: str | None,
    timeout_s: float,
    insecure: bool,
    cacert: Path | None,
    cert: Path | None,
    key: Path | None,
    port: int | None,
    cluster: Path | None,
) -> None:
    """Send a question (or stdin) to the model, stream the answer."""
    from raylaunch.base.http_client import Access
    from raylaunch.serve import ask as asking

    question = question if question is not None else _read_stdin()
    if not question.strip():
        raise click.UsageError('the question is missing: raylaunch ask "Who are you?", or write it to stdin')
    tls = make_tls(insecure=insecure, cacert=cacert, cert=cert, key=key)
    api_key = os.environ.get("RAYLAUNCH_SERVER__API_KEY") or os.environ.get("OPENAI_API_KEY")
    with contextlib.ExitStack() as stack:
        if cluster is not None:
            from raylaunch.config import cluster_file
            from raylaunch.provision import remote, remote_launch

            file = cluster_file.load(cluster)
            reached = stack.enter_context(remote.reach_service(file, port))
            access = Access(timeout_s, api_key or reached.key, tls.for_own(None))
            server = asking.Server(reached.url, access, reached.name, remote_launch.viewpoint_of(file))
        elif url is not None:
            server = asking.Server(url, Access(timeout_s, api_key, tls))
        else:
            service = find_service(port)
            access = Access(timeout_s, api_key, tls.for_own(service.client_cert), may_use_proxy=False)
            server = asking.Server(service.url, access)
        _print_pieces(asking.ask(question, server, model=model, max_tokens=max_tokens))


def _read_stdin() -> str:
    """The text on stdin; nothing of a terminal.

    Raises:
        ServiceError: it is not UTF-8.
    """
    from raylaunch.base.errors import ServiceError

    if sys.stdin.isatty():
        return ""
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ServiceError(
            f"the question on stdin is not UTF-8 text (byte {error.start + 1})",
            fix="convert it: iconv -f LATIN1 -t UTF-8",
        ) from error


def _print_pieces(pieces: "Iterator[Piece]") -> None:
    """The answer to stdout; thinking (dim) and notes to stderr."""
    last = ""
    try:
        for piece in pieces:
            if last and piece.kind != last:
                click.echo(err=last != "answer")
            last = piece.kind
            if piece.kind == "note":
                click.echo(f"({piece.text})", err=True)
            else:
                is_thinking = piece.kind == "thinking"
                click.echo(click.style(piece.text, dim=True) if is_thinking else piece.text, nl=False, err=is_thinking)
    finally:  # an error begins on a line of its own, too
        if last in ("answer", "thinking"):
            click.echo(err=last == "thinking")


@click.command()
@JSON
@PORT
@CLUSTER
def status(as_json: bool, port: int | None, cluster: Path | None) -> int | None:
    """Show what is served: since when, where, and its load."""
    if cluster is not None:
        return run_on_cluster(cluster, "status", port, "--json" if as_json else "")
    from dataclasses import asdict

    from raylaunch.base import console
    from raylaunch.serve import status as service_status

    found = service_status.query(find_service(port))
    if as_json:
        console.print_json(asdict(found))
    else:
        console.print_result("\n".join(found.to_lines()))
    return None


@click.command()
@PORT
@click.option("--timeout-s", type=float, default=120.0, show_default=True, help="Longest wait, in seconds.")
@CLUSTER
def stop(port: int | None, timeout_s: float, cluster: Path | None) -> int | None:
    """Stop the service that `serve` started here."""
    if cluster is not None:
        return run_on_cluster(cluster, "stop", port, f"--timeout-s={timeout_s}")
    from raylaunch.base import console
    from raylaunch.base.viewpoint import Viewpoint
    from raylaunch.serve.service_record import end_leftovers, list_services, stop_service

    chosen = [service for service in list_services() if port in (None, service.port)]
    if not chosen:
        place = Viewpoint.of_this_process().place
        console.say(f"nothing serves on {place}" + (f" on port {port}" if port else "") + ": nothing to stop")
    for service in chosen:
        if service.is_alive():
            stop_service(service, timeout_s=timeout_s, report=console.say)
            console.say(f"stopped {service.models[0]} on port {service.port}")
        else:
            left = end_leftovers(service)
            console.say(f"port {service.port}: its supervisor was dead; stopped {len(left)} processes that it left")
    return None


COMMANDS = (serve, config, schema, ask_question, status, stop)
