"""Print a log, and follow it as it grows."""

import sys
import time
from pathlib import Path

from raylaunch.base import paths
from raylaunch.base.errors import ServiceError
from raylaunch.base.viewpoint import Viewpoint
from raylaunch.serve.service_record import find_service, list_services

_PAUSE_S = 0.3


def name_log(replica: int) -> str:
    """The file of a replica's log in the service's folder."""
    return f"engine-{replica}.log" if replica else "engine.log"


def find_log(port: int | None, replica: int = 0) -> tuple[Path, bool]:
    """The log of the running service, else of the one that ran last, and whether it still runs.

    Args:
        port: which one, where several run or ran here.

    Raises:
        ServiceError: several run, or none has run.
    """
    try:
        return find_service(port).folder / name_log(replica), True
    except ServiceError:
        if any(service.is_alive() and port in (None, service.port) for service in list_services()):
            raise
        logs = [*(paths.home() / "services").glob(f"{'*' if port is None else port}/{name_log(replica)}")]
        if not logs:
            raise
    return max(logs, key=lambda log: log.stat().st_mtime), False


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
