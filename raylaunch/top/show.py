"""Views on a terminal: once, or over and over on a screen of their own."""

import contextlib
from collections.abc import Iterator

from rich.console import Console, Group
from rich.live import Live

from raylaunch.top.screen import render
from raylaunch.top.view import View

_NO_TERMINAL_COLUMNS = 400


def print_once(view: View) -> None:
    """Write a view to stdout, as wide as the terminal, or as wide as it takes where there is none."""
    console = Console(highlight=False)
    width = console.width if console.is_terminal else _NO_TERMINAL_COLUMNS
    for line in render(view, width, None):
        console.print(line, soft_wrap=True)


def run(views: Iterator[View]) -> None:
    """Show views until Ctrl-C. Where stdout is no terminal, each is written once, below the last."""
    console = Console(highlight=False)
    with contextlib.suppress(KeyboardInterrupt):
        if not console.is_terminal:
            for view in views:
                print_once(view)
            return
        with Live(console=console, screen=True, auto_refresh=False) as screen:
            screen.update(Group("looking at the nodes; Ctrl-C leaves, the service goes on"), refresh=True)
            for view in views:
                screen.update(Group(*render(view, console.width, console.height)), refresh=True)
