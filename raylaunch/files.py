"""Files of ours that must never end a service."""

import os
from pathlib import Path

from raylaunch import output, paths


def write_quietly(path: Path, text: str) -> None:
    """Write a file for its owner only, whole or not at all; where that cannot be, say so and go on serving."""
    try:
        paths.make_private(path.parent)
        aside = path.with_name(f"{path.name}.{os.getpid()}")
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", errors="replace") as file:
            file.write(text)
        aside.replace(path)
    except OSError as error:
        output.say(f"warning: cannot write {path}: {error.strerror}", style="yellow")
