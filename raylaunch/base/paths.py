"""The folder of raylaunch's own state: `~/.raylaunch`, or the value of RAYLAUNCH_HOME.

::

    ~/.raylaunch/
      models/<owner>--<name>/   models fetched without a `model.path`
      services/<port>/          one folder per service: service.json, engine.log
      options/                  JSON Schemas of launch files for other vLLM versions
      bugs/                     reports of raylaunch's own bugs (exit code 3)
"""

import os
import tempfile
from pathlib import Path


def home() -> Path:
    """The folder of raylaunch's own state; it may not exist yet."""
    return Path(os.environ.get("RAYLAUNCH_HOME") or Path.home() / ".raylaunch").expanduser().absolute()


def make_private(folder: Path) -> Path:
    """Create `folder` and its parents, and return it. New ones get mode 0700: logs may quote prompts."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def write_private(path: Path, content: str | bytes) -> None:
    """Write a file atomically, readable by its owner only (0600), in a folder created as by `make_private`.

    Raises:
        OSError: it cannot be written; an older file at `path` is unchanged.
    """
    make_private(path.parent)
    # A name of its own: containers that share the folder have equal pids.
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content.encode(errors="replace") if isinstance(content, str) else content)
        Path(temporary).replace(path)
    except OSError:
        Path(temporary).unlink()
        raise


def write_quietly(path: Path, text: str) -> None:
    """Write a file as `write_private` does; on failure print a warning and go on serving."""
    try:
        write_private(path, text)
    except OSError as error:
        from raylaunch.base import console  # rich: what only reads paths starts without it

        console.say(f"warning: cannot write {path}: {error.strerror}", style="yellow")
