"""The cluster as its head sees it: a session into the head's container that tells its nodes twice a second."""

import queue
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from raylaunch.base.errors import ClusterError
from raylaunch.provision.host_shell import SSH_FAILED, Answer, HostShell, read_json_lines

_WATCH = ("python3", "-m", "raylaunch.provision.head_watch")
_FIRST_LOOK_S = 60.0
"""Joining Ray takes 2 s, more where a disk is cold."""
_SILENCE_S = 30.0
"""ssh itself gives up on a dead connection after 15 s."""
_ATTEMPTS, _PAUSE_S = 4, 3.0
_FIND_GCS = "grep -lsx gcs_server /proc/[0-9]*/comm; true"
_MONITOR_LOG = "tail -c 60000 /tmp/ray/session_latest/logs/monitor.out"


@dataclass(frozen=True, slots=True)
class Hosts:
    """One look of headwatch."""

    gpus: Mapping[str, int]
    """Address -> GPUs, of the living nodes."""
    launcher: Mapping[str, str]
    """Address -> how far Ray's launcher is with it."""
    failures: Mapping[str, int]
    """Address -> how often Ray's launcher gave it up since the head was started."""
    known: Sequence[str]
    """Hosts that the running head's launcher has ever heard of."""


@dataclass
class HeadView:
    """An open session; `close` ends it."""

    shell: HostShell
    _process: "subprocess.Popen[str]"
    _lines: "queue.Queue[dict[str, object] | None]" = field(default_factory=queue.Queue)
    _last: Hosts | None = None

    @classmethod
    def start(cls, shell: HostShell) -> Self:
        """Begin to watch; the first `look` waits for the head's first word."""
        process = shell.follow_in_head([*_WATCH, shell.cluster.cluster_name])
        view = cls(shell, process)
        threading.Thread(target=view._read, daemon=True).start()
        return view

    @classmethod
    def open(cls, shell: HostShell) -> Self | None:
        """A view of a head whose container runs, or None where no Ray is in it.

        Raises:
            ClusterError: a Ray is there, and does not answer: what it serves, if anything, is not ours to end here.
        """
        if not shell.run_in_head(["sh", "-c", _FIND_GCS]).stdout.strip():
            return None
        for attempt in range(_ATTEMPTS):
            view = cls.start(shell)
            try:
                view.look()
            except ClusterError:  # a head that another `up` is starting at this moment takes seconds to answer
                view.close()
                if attempt == _ATTEMPTS - 1:
                    raise
                time.sleep(_PAUSE_S)
            else:
                return view
        return None

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in read_json_lines(iter(self._process.stdout)):
            self._lines.put(line)
        self._lines.put(None)

    def look(self) -> Hosts:
        """The newest look of the head; waits for the next one.

        Raises:
            ClusterError: the head is gone, or Ray on it.
        """
        try:
            line = self._lines.get(timeout=_FIRST_LOOK_S if self._last is None else _SILENCE_S)
            while line is not None and not self._lines.empty():
                line = self._lines.get()
        except queue.Empty:
            line = None
        if line is None:
            raise self._explain_end()
        self._last = Hosts(line["nodes"], line["launcher"], line.get("failures") or {}, line["known"])  # type: ignore[arg-type]
        return self._last

    def _explain_end(self) -> ClusterError:
        self._process.kill()
        _, said = self._process.communicate()
        head = self.shell.cluster.head_ip
        try:
            self.shell.raise_for(Answer(self._process.returncode if said else SSH_FAILED, "", said))
        except ClusterError as error:
            return error
        lines = [line for line in said.splitlines() if line.strip()]
        return ClusterError(
            f"{head}: Ray's head does not answer: {lines[-1] if lines else 'it said nothing'}",
            fix=f"`raylaunch down {self.shell.cluster.path}`, then up again; its logs end with its container",
            excerpt=lines[-5:],
        )

    def retry(self, hosts: Sequence[str]) -> None:
        """Have Ray's launcher begin anew with these workers; those that are in are not touched."""
        if not hosts:
            return
        self.shell.run_in_head([*_WATCH, self.shell.cluster.cluster_name, "retry", *hosts])

    def read_monitor_log(self) -> str:
        """The end of what Ray's launcher on the head printed."""
        return self.shell.run_in_head(["sh", "-c", _MONITOR_LOG]).stdout

    def close(self) -> None:
        """End the session; it ends its program on the head by closing its stdin."""
        if self._process.poll() is None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            deadline = time.monotonic() + 3.0
            while self._process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.05)
        self._process.kill()
        self._process.wait()
