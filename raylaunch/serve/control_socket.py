"""A socket in the service's folder, for its owner alone: `raylaunch restart` hands a launch over through it.

One JSON line asks, JSON lines answer: {"say": TEXT} as it goes, {"done": TEXT} or {"error": TEXT, "fix": TEXT} at last.
"""

import contextlib
import json
import os
import queue
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raylaunch.base.errors import ServiceError

_NAME = "control.sock"


@dataclass
class Request:
    """A launch to swap in, and where the answer goes."""

    launch: str
    """As LaunchConfig.to_json writes it."""
    connection: socket.socket

    def answer(self, **fields: Any) -> None:
        """One line to whoever asked; they may be gone."""
        with contextlib.suppress(OSError):
            self.connection.sendall(json.dumps(fields).encode() + b"\n")

    def refuse(self, what: str, fix: str) -> None:
        """Answer that it is not done, and say no more."""
        self.answer(error=what, fix=fix)
        self.close()

    def close(self) -> None:
        """Say no more."""
        self.connection.close()


class Control:
    """The listening side, in a thread of its own; requests wait in `requests`."""

    def __init__(self, folder: Path) -> None:
        self.requests: queue.SimpleQueue[Request] = queue.SimpleQueue()
        self._path = folder / _NAME
        self._path.unlink(missing_ok=True)
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with _short_name(folder) as name:
            self._listening.bind(name)
        self._path.chmod(0o600)
        self._listening.listen(8)
        self._thread = threading.Thread(target=self._take, name="control", daemon=True)
        self._thread.start()

    def _take(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:  # closed
                return
            connection.settimeout(10.0)
            try:
                fields = json.loads(connection.makefile("r").readline())
                self.requests.put(Request(fields["launch"], connection))
            except (OSError, ValueError, KeyError, TypeError):
                connection.close()

    def close(self) -> None:
        """Take no more requests."""
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join()
        self._path.unlink(missing_ok=True)


@contextlib.contextmanager
def _short_name(folder: Path) -> Any:
    """A path of few bytes to the socket: a socket's own path may have 107 at most, and homes can be deep."""
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{_NAME}"
    finally:
        os.close(descriptor)


def ask(folder: Path, launch: str, *, report: Callable[[str], None], timeout_s: float) -> str:
    """Hand a launch to the supervisor whose folder this is, and follow until it serves.

    Returns:
        What was done, in words.

    Raises:
        ServiceError: it was not done; the old engine serves on where the answer says so.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_s)
        try:
            with _short_name(folder) as name:
                connection.connect(name)
            connection.sendall(json.dumps({"launch": launch}).encode() + b"\n")
            for line in connection.makefile("r"):
                fields = json.loads(line)
                if "say" in fields:
                    report(fields["say"])
                elif "done" in fields:
                    return str(fields["done"])
                else:
                    raise ServiceError(fields["error"], fix=fields.get("fix", ""))
        except TimeoutError as error:
            raise ServiceError(
                f"the service was not ready again within {timeout_s:.0f} s", fix="`raylaunch status` shows its state"
            ) from error
        except OSError as error:
            raise ServiceError(
                f"the supervisor cannot be reached: {error.strerror}", fix="`raylaunch status` shows what serves here"
            ) from error
    raise ServiceError("the supervisor ended before it answered", fix="`raylaunch incidents` may say why")
