"""A socket in the service's folder, for its owner alone: `raylaunch restart` sends a launch through it.

The request is one line, `LaunchConfig.to_json`. The answer is a Reply in each line, as JSON; the last one is final.
"""

import contextlib
import json
import os
import queue
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from raylaunch.base.errors import ServiceError
from raylaunch.base.viewpoint import Viewpoint
from raylaunch.config.launch import LaunchConfig

_NAME = "control.sock"
_REQUEST_S = 10.0


@dataclass(frozen=True)
class Reply:
    """What the supervisor did, or is doing."""

    text: str
    fix: str = ""
    is_final: bool = False
    is_error: bool = False


@dataclass(frozen=True)
class RestartRequest:
    """A launch to be served from now on, and the connection for the answer."""

    launch: LaunchConfig
    connection: socket.socket

    def _reply(self, reply: Reply) -> None:
        with contextlib.suppress(OSError):  # the client may be gone
            self.connection.sendall(json.dumps(asdict(reply)).encode() + b"\n")
        if reply.is_final:
            self.connection.close()

    def report(self, text: str) -> None:
        """Report progress."""
        self._reply(Reply(text))

    def finish(self, text: str) -> None:
        """Report success, and close the connection."""
        self._reply(Reply(text, is_final=True))

    def refuse(self, what: str, fix: str) -> None:
        """Report an error, and close the connection."""
        self._reply(Reply(what, fix, is_final=True, is_error=True))


class ControlSocket:
    """The supervisor's side, in a thread of its own; requests wait in `requests`."""

    def __init__(self, folder: Path) -> None:
        self.requests: queue.SimpleQueue[RestartRequest] = queue.SimpleQueue()
        self._path = folder / _NAME
        self._path.unlink(missing_ok=True)
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with _shorten_path(folder) as path:
            self._listening.bind(path)
        self._path.chmod(0o600)
        self._listening.listen(8)
        self._thread = threading.Thread(target=self._accept, name="control", daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:  # closed
                return
            connection.settimeout(_REQUEST_S)
            try:
                launch = LaunchConfig.from_json(connection.makefile("r").readline())
            except (OSError, ValueError, KeyError, TypeError, AttributeError):  # not LaunchConfig.to_json
                connection.close()
            else:
                self.requests.put(RestartRequest(launch, connection))

    def close(self) -> None:
        """Accept no more requests."""
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join()
        self._path.unlink(missing_ok=True)


@contextlib.contextmanager
def _shorten_path(folder: Path) -> Iterator[str]:
    """A short path to the socket: the limit is 107 bytes, and home folders can be deep."""
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{_NAME}"
    finally:
        os.close(descriptor)


def request_restart(folder: Path, launch: LaunchConfig, *, report: Callable[[str], None], timeout_s: float) -> str:
    """Send a launch to the supervisor of the service in `folder`, and wait until it is served.

    Returns:
        What the supervisor reports at the end.

    Raises:
        ServiceError: the launch is not served; the message states whether the old engine still is.
    """
    view = Viewpoint.of_this_process()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_s)
        try:
            with _shorten_path(folder) as path:
                connection.connect(path)
            connection.sendall(launch.to_json().encode() + b"\n")
            for line in connection.makefile("r"):
                reply = Reply(**json.loads(line))
                if reply.is_error:
                    raise ServiceError(reply.text, fix=reply.fix)
                if reply.is_final:
                    return reply.text
                report(reply.text)
        except TimeoutError as error:
            raise ServiceError(
                f"the service was not ready again within {timeout_s:.0f} s",
                fix=f"`{view.command('status')}` shows its state",
            ) from error
        except OSError as error:
            raise ServiceError(
                f"cannot connect to the supervisor: {error.strerror}",
                fix=f"`{view.command('status')}` shows what serves there",
            ) from error
    raise ServiceError("the supervisor ended before it answered", fix=f"`{view.command('incidents')}` may show why")
