"""The command line's entry point: the group, `--version`, and an exit code for every error."""

import os
import sys
import traceback
from pathlib import Path
from typing import Any

import click

from raylaunch.base.errors import ExitCode, RaylaunchError
from raylaunch.cli import (
    bench,
    cluster,
    doctor,
    explain,
    incidents,
    lock,
    netcheck,
    plan,
    serve,
    top,
    upgrade,
    weights,
)  # fmt: skip

_FAMILIES = (serve, plan, incidents, explain, cluster, doctor, netcheck, lock, upgrade, bench, top, weights)
"""Each module lists its verbs in COMMANDS."""


def _print_versions(context: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if not wanted or context.resilient_parsing:
        return
    from raylaunch import __version__
    from raylaunch.base import versions

    for package in versions.REPORTED:
        found = __version__ if package == "raylaunch" else versions.find_version(package)
        click.echo(f"{package} {found or 'not installed'}")
    context.exit()


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_versions, help="Print all versions."
)
def cli() -> None:
    """Serve one large model across your GPU machines, on Ray and vLLM, behind one OpenAI-compatible URL."""


for _family in _FAMILIES:
    for _command in _family.COMMANDS:
        cli.add_command(_command)


def _write_bug_report(error: BaseException) -> Path:
    """Write the traceback and versions for a maintainer; no environment and no values of arguments, for privacy."""
    import platform
    import time

    from raylaunch.base import paths, versions

    lines = [f"{package} {versions.find_version(package)}" for package in versions.REPORTED]
    folder = paths.make_private(paths.home() / "bugs")
    report = folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    trace = "".join(traceback.format_exception(error))
    report.write_text(f"raylaunch bug report\n{platform.platform()}\n" + "\n".join(lines) + f"\n\n{trace}")
    return report


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; exit with an errors.ExitCode whatever happens."""
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
        from raylaunch.base.console import print_error

        print_error(error)
        return ExitCode.FAILED
    except BrokenPipeError:  # the reader of our stdout has closed it
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123 (for the interpreter's own flush at exit)
        return ExitCode.FAILED
    except Exception as error:  # noqa: BLE001 (the entry point)
        report = _write_bug_report(error)
        click.echo(f"error: this is a bug in raylaunch: {type(error).__name__}: {error}", err=True)
        click.echo(f"please report it with this file: {report}", err=True)
        return ExitCode.BUG
    return result if isinstance(result, int) else ExitCode.STOPPED


if __name__ == "__main__":
    main()
