"""A process that accepts, pulses as the API server does, and notes that it was asked to fail its clients.

With a second argument, EngineCore's exit status, its pulses are those of an API server whose EngineCore ended so.
"""

import sys
from pathlib import Path

from raylaunch.base.ipc import ParentLink
from raylaunch.engine.messages import Accepting, EnginePulse, FailClients

if __name__ == "__main__":
    parent = ParentLink()
    parent.send(Accepting())
    while not parent.is_closed:
        exits = [int(status) for status in sys.argv[2:]]
        parent.send(EnginePulse(running=1, is_dead=bool(exits), core_exit=exits[0] if exits else None))
        for message in parent.receive(0.5):
            if isinstance(message, FailClients):
                Path(sys.argv[1]).write_text(message.why)
                sys.exit(0)
