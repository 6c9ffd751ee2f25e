"""Where raylaunch keeps what it must remember: one folder, `~/.raylaunch`, or where RAYLAUNCH_HOME points.

::

    ~/.raylaunch/
      models/<owner>--<name>/   models fetched without a `model.path`
      services/<port>/          one folder a service: service.json, engine.log
      options/                  option tables read off an installed vLLM, by version
      bugs/                     reports of bugs of ours (exit code 3)
"""

import os
from pathlib import Path


def home() -> Path:
    """The folder of raylaunch's own state (not made by asking)."""
    return Path(os.environ.get("RAYLAUNCH_HOME") or Path.home() / ".raylaunch").expanduser().absolute()


def make_private(folder: Path) -> Path:
    """Make `folder` and its parents (0700 for new ones: logs may quote questions), and return it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def write_quietly(path: Path, text: str) -> None:
    """Write a file for its owner only, whole or not at all; where that cannot be, say so and go on serving."""
    try:
        make_private(path.parent)
        aside = path.with_name(f"{path.name}.{os.getpid()}")
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", errors="replace") as file:
            file.write(text)
        aside.replace(path)
    except OSError as error:
        from raylaunch.base import console  # rich: what only reads paths starts without it

        console.say(f"warning: cannot write {path}: {error.strerror}", style="yellow")
