"""The cluster as its head sees it: a session into the head's container that reports the nodes twice a second."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from raylaunch.base.errors import ClusterError
from raylaunch.provision.host_shell import HostShell
from raylaunch.provision.ssh import SSH_FAILED, CommandResult, RemoteProcess

_WATCH = ("python3", "-m", "raylaunch.provision.head_watch")
_FIRST_REPORT_S = 60.0
"""Joining Ray takes 2 s, more where a disk is cold."""
_SILENCE_S = 30.0
"""ssh itself gives up on a dead connection after 15 s."""
_ATTEMPTS, _PAUSE_S = 4, 3.0
_FIND_GCS = "grep -lsx gcs_server /proc/[0-9]*/comm; true"
_MONITOR_LOG = "tail -c 60000 /tmp/ray/session_latest/logs/monitor.out"


@dataclass(frozen=True, slots=True)
class HeadReport:
    """One report of head_watch."""

    gpus: Mapping[str, int]
    """Address -> GPUs, of the living nodes."""
    launcher: Mapping[str, str]
    """Address -> state of Ray's launcher for it (see ray_up_log.STAGES)."""
    failures: Mapping[str, int]
    """Address -> how often Ray's launcher gave it up since the head was started."""
    known: Sequence[str]
    """Hosts in the configuration that the running head was started with."""

    @classmethod
    def parse(cls, line: str) -> Self | None:
        """The report in a line of JSON; None for other lines (a library's warning)."""
        if not line.startswith("{"):
            return None
        report = json.loads(line)
        return cls(report["nodes"], report["launcher"], report.get("failures") or {}, report["known"])


@dataclass
class HeadSession:
    """An open session; `close` ends it."""

    shell: HostShell
    _process: RemoteProcess
    _timeout_s: float = _FIRST_REPORT_S

    @classmethod
    def start(cls, shell: HostShell) -> Self:
        """Start the watching program; the first `read` waits for its first report."""
        return cls(shell, shell.start_in_head([*_WATCH, shell.cluster.cluster_name]))

    @classmethod
    def open(cls, shell: HostShell) -> Self | None:
        """A session with a head whose container runs, or None where no Ray runs in it.

        Raises:
            ClusterError: Ray runs there but does not answer; it may serve, so it is not stopped here.
        """
        if not shell.run_in_head(["sh", "-c", _FIND_GCS]).stdout.strip():
            return None
        for attempt in range(1, _ATTEMPTS + 1):
            session = cls.start(shell)
            try:
                session.read()
            except ClusterError:  # a head that another `up` is starting at this moment takes seconds to answer
                session.close()
                if attempt == _ATTEMPTS:
                    raise
                time.sleep(_PAUSE_S)
            else:
                return session
        return None

    def read(self) -> HeadReport:
        """The newest report of the head; waits for the next one.

        Raises:
            ClusterError: the head, or Ray on it, does not answer.
        """
        report = None
        while report is None:
            try:
                line = self._process.read_newest_line(self._timeout_s)
            except TimeoutError:
                line = None
            if line is None:
                raise self._explain_end()
            report = HeadReport.parse(line)
        self._timeout_s = _SILENCE_S
        return report

    def _explain_end(self) -> ClusterError:
        closed = self._process.close()
        lines = [line for line in closed.stderr.splitlines() if line.strip()]
        try:
            self.shell.raise_for(CommandResult(closed.status if lines else SSH_FAILED, stderr=closed.stderr))
        except ClusterError as error:
            return error
        return ClusterError(
            f"{self.shell.cluster.head_ip}: Ray's head does not answer: {lines[-1]}",
            fix=f"`raylaunch down {self.shell.cluster.shown_path}`, then up; its logs go with its container",
            excerpt=lines[-5:],
        )

    def retry(self, hosts: Sequence[str]) -> None:
        """Have Ray's launcher start over with these workers; nodes that have joined are not touched."""
        if hosts:
            self.shell.run_in_head([*_WATCH, self.shell.cluster.cluster_name, "retry", *hosts])

    def read_monitor_log(self) -> str:
        """The end of what Ray's launcher on the head printed."""
        return self.shell.run_in_head(["sh", "-c", _MONITOR_LOG]).stdout

    def close(self) -> None:
        """Close the session; its program on the head exits with its stdin."""
        self._process.close(grace_s=3.0)
