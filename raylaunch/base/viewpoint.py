"""Where the reader of this process's messages is: at this machine, or at one that runs verbs here with --cluster."""

import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Self

VARIABLE = "RAYLAUNCH_VIEWPOINT"
"""Set for a process on a cluster's head whose output is read elsewhere."""


@dataclass(frozen=True, slots=True)
class Viewpoint:
    """Names this machine and its commands as the reader has to."""

    cluster: str = ""
    """The cluster file, as the reader types it; empty: the reader is here."""
    head: str = ""
    """The address by which the reader knows this machine."""
    hosts: int = 1
    """Hosts in the cluster file."""
    key_file: str = ""
    """The reader's file with the API key of the service that is started."""
    launch: str = ""
    """The reader's launch file, of which this process has a copy."""

    @classmethod
    def of_this_process(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """As the process that started this one set it; else the reader is here."""
        text = environ.get(VARIABLE)
        return cls(**json.loads(text)) if text else cls()

    @property
    def is_remote(self) -> bool:
        """Whether the reader is at another machine."""
        return bool(self.cluster)

    @property
    def place(self) -> str:
        """This machine, for a message."""
        return f"the head {self.head}" if self.is_remote else "this machine"

    def command(self, *words: str) -> str:
        """A raylaunch command that does this here, as the reader types it."""
        return shlex.join(["raylaunch", *words, *(["--cluster", self.cluster] if self.is_remote else [])])

    @property
    def up_command(self) -> str:
        """The command that starts the reader's cluster, or continues with it."""
        return shlex.join(["raylaunch", "up", self.cluster])

    def to_words(self) -> list[str]:
        """`env` with this viewpoint, to be put before a command that is run on the head."""
        return ["env", f"{VARIABLE}={json.dumps(asdict(self))}"]


HERE = Viewpoint()
"""The reader is at this machine."""
