"""A child process that sends back what it gets, and the messages it knows."""

import sys
import time
from dataclasses import dataclass
from pathlib import Path

from raylaunch.base.ipc import ParentLink


@dataclass(frozen=True)
class Echo:
    """Comes back as it was sent."""

    body: bytes


@dataclass(frozen=True)
class Other:
    """Is kept while an Echo is awaited."""

    number: int


@dataclass(frozen=True)
class Sleep:
    """Read nothing for so long."""

    seconds: float


def run_child() -> None:
    """Answer each Echo; report what came before the first one; end with the parent."""
    parent = ParentLink()
    parent.send(parent.wait_for(Echo))
    while not parent.is_closed:
        for message in parent.receive(None):
            if isinstance(message, Sleep):
                time.sleep(message.seconds)
            else:
                parent.send(message)
    Path(sys.argv[1]).write_text("the parent is gone")
