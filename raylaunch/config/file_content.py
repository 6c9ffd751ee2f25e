"""The bytes of a launch or cluster file, or why there are none."""

import difflib
import itertools
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from raylaunch.base.text import is_encodable
from raylaunch.config.layers import LayeredValues, describe_path

MAX_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class FileKind:
    """What a file is called in messages, and what it needs at least."""

    noun: str
    needs: str
    of_others: frozenset[str] = frozenset()
    """Blocks that a file of another kind begins with."""


LAUNCH_FILE = FileKind("launch file", "a `model:` block at least", frozenset({"provider", "auth", "cluster_name"}))


def fetch_content(path: Path, layered: LayeredValues, kind: FileKind = LAUNCH_FILE) -> bytes | None:
    """The bytes of a launch file (at most one more than may be), or None with the problem layered."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            what = f"is a directory, not a {kind.noun}" + _name_files(path)
        elif not stat.S_ISREG(status.st_mode):
            what = "is not a regular file"
        else:
            with path.open("rb") as file:
                return file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        what = "no such file" + _name_nearest(path)
    except PermissionError:
        what = "no permission to read it"
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        what = f"cannot be read: {getattr(error, 'strerror', None) or 'not a file name'}"
    layered.problems.append(f"{describe_path(path)}: {what}")
    layered.unread = True
    return None


def _list_launch_files(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in itertools.islice(entries, 1000)]
    except OSError:
        return []
    return sorted(name for name in names if name.endswith((".yaml", ".yml")) and is_encodable(name))


def _name_files(folder: Path) -> str:
    names = _list_launch_files(folder)
    return f"; in it: {', '.join(names[:5])}" if names else ""


def _name_nearest(path: Path) -> str:
    if not path.parent.is_dir():
        return f", nor a folder {describe_path(path.parent)}"
    names = _list_launch_files(path.parent)
    nearest = difflib.get_close_matches(path.name, names, n=1, cutoff=0.4) or names[:1]
    return f"; nearest is {path.parent / nearest[0]}" if nearest else ""
