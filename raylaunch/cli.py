"""The command line: parse, load, one call, print. Light to import: a verb imports what it needs when it runs."""

import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from raylaunch.errors import ExitCode, RaylaunchError

if TYPE_CHECKING:
    from raylaunch.config import LaunchConfig
    from raylaunch.service import Service

_LAUNCH = click.argument("launch", required=False, type=click.Path(path_type=Path), metavar="[LAUNCH.yaml]")
_SETS = click.option(
    "--set", "sets", multiple=True, metavar="KEY=VALUE", help="Set a value, as engine.max_model_len=8192."
)
_PORT = click.option("--port", type=int, help="Which service, where several run here.")
_JSON = click.option("--json", "as_json", is_flag=True, help="Write JSON to stdout.")


def _print_versions(context: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if not wanted or context.resilient_parsing:
        return
    from raylaunch import __version__, versions

    for package in versions.REPORTED:
        found = __version__ if package == "raylaunch" else versions.find_version(package)
        click.echo(f"{package} {found or 'not installed'}")
    context.exit()


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_versions, help="Tell all versions."
)
def cli() -> None:
    """Serve one large model across your GPU machines, on Ray and vLLM, behind one OpenAI-compatible URL."""


def _load(launch: Path | None, sets: tuple[str, ...]) -> "LaunchConfig":
    from raylaunch import config

    return config.load(launch, sets=sets, environ=os.environ)


@cli.command()
@_LAUNCH
@_SETS
@click.option("--rehearse", is_flag=True, help="Run the same layout here on logical GPUs, with a stand-in model.")
def serve(launch: Path | None, sets: tuple[str, ...], rehearse: bool) -> None:
    """Serve a launch until Ctrl-C; without a file, the small demo model."""
    loaded = _load(launch, sets)
    from raylaunch import supervisor

    supervisor.serve(loaded, rehearse=rehearse)


@cli.command()
@_LAUNCH
@_SETS
@_JSON
def config(launch: Path | None, sets: tuple[str, ...], as_json: bool) -> None:
    """Show a launch as it would be served, and where each value comes from."""
    from raylaunch import config as launch_config
    from raylaunch import output

    loaded = _load(launch, sets)
    rows = launch_config.describe_rows(loaded)
    if as_json:
        output.print_json({key: {"value": value, "source": source} for key, value, source in rows})
        return
    width = max(len(key) for key, _, _ in rows)
    for key, value, source in rows:
        output.print_result(f"{key:<{width}} = {launch_config.format_value(value)}  ({source})")


@cli.command("ask")
@click.argument("question", required=False)
@click.option("--max-tokens", type=click.IntRange(min=1), help="Longest answer, in tokens.")
@click.option("--url", help="Server; without it, the one that runs here.")
@click.option("--model", help="Model name; without it, the server's first.")
@click.option("--timeout-s", type=float, default=300.0, show_default=True, help="Longest silence, in seconds.")
@_PORT
def ask_question(
    question: str | None, max_tokens: int | None, url: str | None, model: str | None, timeout_s: float, port: int | None
) -> None:
    """Ask a question (or the text on stdin) and stream the answer."""
    if question is None:
        question = sys.stdin.read() if not sys.stdin.isatty() else ""
    if not question.strip():
        raise click.UsageError('there is no question: raylaunch ask "Who are you?", or write it to stdin')
    from raylaunch.ask import ask as ask_server

    where = url or _find_service(port).url
    key = os.environ.get("RAYLAUNCH_SERVER__API_KEY") or os.environ.get("OPENAI_API_KEY")
    for piece in ask_server(question, url=where, model=model, api_key=key, max_tokens=max_tokens, timeout_s=timeout_s):
        click.echo(piece, nl=False)
    click.echo()


def _find_service(port: int | None) -> "Service":
    from raylaunch.service import find_service

    return find_service(port)


@cli.command()
@_JSON
@_PORT
def status(as_json: bool, port: int | None) -> None:
    """Tell what serves here, since when, on which nodes, and how busy it is."""
    from raylaunch import output
    from raylaunch.status import look_at

    seen = look_at(_find_service(port))
    if as_json:
        output.print_json(seen.to_json())
    else:
        output.print_result("\n".join(seen.to_lines()))


@cli.command()
@_PORT
@click.option("--timeout-s", type=float, default=120.0, show_default=True, help="Longest wait, in seconds.")
def stop(port: int | None, timeout_s: float) -> None:
    """End what `serve` started here."""
    from raylaunch import output
    from raylaunch.service import end_leftovers, list_services, stop_service

    chosen = [service for service in list_services() if port in (None, service.port)]
    if not chosen:
        output.say("nothing serves on this machine" + (f" on port {port}" if port else "") + ": nothing to stop")
    for service in chosen:
        if service.is_alive():
            stop_service(service, timeout_s=timeout_s, report=output.say)
            output.say(f"stopped {service.models[0]} on port {service.port}")
        else:
            left = end_leftovers(service)
            output.say(f"port {service.port}: its supervisor was gone; ended {len(left)} processes it left behind")


def _write_bug_report(error: BaseException) -> Path:
    """Write what a maintainer needs, and nothing a user would mind: no environment, no arguments' values."""
    import platform
    import time

    from raylaunch import paths, versions

    lines = [f"{package} {versions.find_version(package)}" for package in versions.REPORTED]
    folder = paths.make_private(paths.home() / "bugs")
    report = folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    trace = "".join(traceback.format_exception(error))
    report.write_text(f"raylaunch bug report\n{platform.platform()}\n" + "\n".join(lines) + f"\n\n{trace}")
    return report


def main(arguments: list[str] | None = None) -> None:
    """The one door: runs the command line and turns whatever happens into an exit code (errors.ExitCode)."""
    sys.exit(_run(arguments))


def _run(arguments: list[str] | None) -> int:
    try:
        result: Any = cli.main(arguments, prog_name="raylaunch", standalone_mode=False)
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return 130
    except RaylaunchError as error:
        from raylaunch.output import print_error

        print_error(error)
        return ExitCode.FAILED
    except BrokenPipeError:  # the reader of our stdout went away
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123 (for the interpreter's own flush at exit)
        return ExitCode.FAILED
    except Exception as error:  # noqa: BLE001 (the door)
        report = _write_bug_report(error)
        click.echo(f"error: this is a bug in raylaunch: {type(error).__name__}: {error}", err=True)
        click.echo(f"please report it with this file: {report}", err=True)
        return ExitCode.BUG
    return result if isinstance(result, int) else ExitCode.STOPPED


if __name__ == "__main__":
    main()
