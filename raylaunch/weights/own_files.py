"""Files of the user where a model's files belong: nothing happens to them unless the user chooses."""

import os
import shlex
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Self

from raylaunch.base.errors import WeightsError

_NAMED_AT_MOST = 5


class OwnFilesChoice(Enum):
    """What a pull does where files of the user differ from the model's."""

    ASK = "ask"
    """Nothing: it ends with OwnFilesError."""
    ADOPT = "adopt"
    """Take the folder as it is."""
    REPLACE = "replace"
    """Move them aside, then fetch the model's."""


@dataclass(frozen=True, slots=True)
class OwnFile:
    """A file in a model's folder that no pull wrote, or that was changed after one."""

    name: str
    size: int | None
    """Bytes; None if it is no file (a folder, a broken link)."""
    wanted: int | None = None
    """Bytes of the file that the model has under this name; None if it has none."""
    is_readable: bool = True

    @classmethod
    def of(cls, path: Path, name: str) -> Self:
        """What stands at `path`."""
        try:
            seen = path.stat()
        except OSError:
            return cls(name, None)
        return cls(name, seen.st_size if stat.S_ISREG(seen.st_mode) else None, is_readable=os.access(path, os.R_OK))

    def __str__(self) -> str:
        if self.size is None:
            return f"{self.name} (no plain file)"
        if not self.is_readable:
            return f"{self.name} ({self.size:,} bytes, no permission to read it)"
        if self.wanted is None:
            return f"{self.name} ({self.size:,} bytes, not in the repo)"
        if self.wanted == self.size:
            return f"{self.name} ({self.size:,} bytes, other content)"
        return f"{self.name} ({self.size:,} bytes, not {self.wanted:,})"


class OwnFilesError(WeightsError):
    """A model's folder has files of the user that differ from the model's: a choice that is theirs."""

    @classmethod
    def as_question(cls, repo: str, folder: Path, found: Mapping[str, Sequence[OwnFile]], command: str) -> Self:
        """The question, with every answer as a command.

        Args:
            found: node -> the files.
            command: "raylaunch weights pull LAUNCH.yaml".
        """
        return cls(
            f"{folder} has files that raylaunch did not fetch, or that were changed since, and that differ from "
            f"{repo}: {_list_by_node(found)}",
            fix=f"keep them, and take the folder as it is as {repo}: `{command} --adopt`; or move them to "
            f"{folder}.replaced-TIME and fetch the model's: `{command} --replace`; or set another model.path",
        )

    @classmethod
    def on_adoption(cls, repo: str, folder: Path, found: Mapping[str, Sequence[OwnFile]], adopted: str) -> Self:
        """Nodes have files of the user that differ from those that --adopt took.

        Args:
            adopted: where these are: "/data/model on NODE, filled by hand".
        """
        away = shlex.join(["mv", str(folder), f"{folder}.mine"])
        return cls(
            f"--adopt takes one folder for all nodes as {repo}, {adopted}; others have files of their own that differ: "
            f"{_list_by_node(found)}",
            fix=f"on {', '.join(found)}: `{away}`, then run it again: it copies the other folder there. To take the "
            "folder of another node, move all others away",
        )

    @classmethod
    def on_install(cls, folder: Path, found: Sequence[OwnFile]) -> Self:
        """A file appeared, or was changed, while the model was fetched."""
        return cls(
            f"{folder} has files that raylaunch did not fetch, or that were changed since: {_join(found)}",
            fix="run the command again: it asks what shall become of them; what was fetched is kept",
        )


def _list_by_node(found: Mapping[str, Sequence[OwnFile]]) -> str:
    return "; ".join(f"{node}: {_join(files)}" for node, files in found.items())


def _join(files: Sequence[OwnFile]) -> str:
    rest = len(files) - _NAMED_AT_MOST
    return ", ".join(map(str, files[:_NAMED_AT_MOST])) + (f" and {rest} more" if rest > 0 else "")
