"""What is done with the results of bench: report, compare."""

from pathlib import Path

import click

from raylaunch.cli.options import JSON


def draw(result: Path, *, html: bool, png: bool) -> None:
    """Draw a result's pictures beside it."""
    from raylaunch.base import console

    if html:
        from raylaunch.bench.report import write_report

        console.say(f"report: {write_report(result, result.with_suffix('.html'))}")
    if png:
        from raylaunch.bench.png_card import write_png

        console.say(f"picture: {write_png(result, result.with_suffix('.png'))}")


@click.command("report", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("result", type=click.Path(path_type=Path))
@click.option("--png", is_flag=True, help="Also draw a PNG.")
def draw_report(result: Path, png: bool) -> None:
    """Draw a result again: RESULT.html beside it, and RESULT.png with --png."""
    draw(result, html=True, png=png)


@click.command("compare", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@JSON
def compare(a: Path, b: Path, as_json: bool) -> None:
    """Compare two results: confidence intervals, and a verdict where the data support one."""
    from raylaunch.base import console
    from raylaunch.bench.compare import compare_files, describe_comparison

    differences, found = compare_files(a, b)
    if as_json:
        levels = [one.to_fields() for one in found]
        console.print_json({"a": str(a), "b": str(b), "differences": differences, "levels": levels})
    else:
        console.print_result("\n".join([f"A: {a}", f"B: {b}", *describe_comparison(differences, found)]))
