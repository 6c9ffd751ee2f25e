"""Print a log, and follow it as it grows."""

import sys
import time
from pathlib import Path

from raylaunch.base.errors import ServiceError
from raylaunch.base.viewpoint import Viewpoint

_PAUSE_S = 0.3


def show(log: Path, *, follow: bool) -> None:
    """Write a log file to stdout.

    Args:
        follow: keep printing what is appended, until Ctrl-C.

    Raises:
        ServiceError: the file does not exist.
    """
    try:
        with log.open(errors="replace") as file:
            while True:
                while piece := file.read(1 << 16):
                    sys.stdout.write(piece)
                    sys.stdout.flush()
                if not follow:
                    return
                time.sleep(_PAUSE_S)
    except FileNotFoundError:
        command = Viewpoint.of_this_process().command("status")
        raise ServiceError(f"{log} does not exist", fix=f"`{command}` shows what serves there") from None
