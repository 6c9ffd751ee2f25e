"""Failures of Ray's launcher, counted in its log (recorded from Ray 2.60)."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from raylaunch.base.processes import wait_until
from raylaunch.provision import head_watch
from raylaunch.provision.head_watch import FailureCount

GAVE_UP = (
    "2026-11-24 09:50:16,421\tERROR autoscaler.py:617 -- StandardAutoscaler: Terminating the node with id 10.0.0.2 and "
    "ip 10.0.0.2. (launch failed)\n"
)
GONE_ALREADY = "WARNING autoscaler.py:829 -- StandardAutoscaler: 10.0.0.3: Failed to update node. Node has already been"


def test_failures_are_counted_as_the_log_grows(tmp_path: Path) -> None:
    """Each once, for each node; a line counts when it is complete; other terminations do not count."""
    log = tmp_path / "monitor.log"
    failures = FailureCount(log)
    assert failures.read() == {}
    log.write_text("INFO -- Autoscaler status\n" + GAVE_UP)
    assert failures.read() == failures.read() == {"10.0.0.2": 1}
    with log.open("a") as file:
        file.write(GAVE_UP.replace("launch failed", "idle") + GAVE_UP + GONE_ALREADY)
    assert failures.read() == {"10.0.0.2": 2}
    with log.open("a") as file:
        file.write(" terminated.\n")
    assert failures.read() == {"10.0.0.2": 2, "10.0.0.3": 1}


def test_the_launcher_is_restarted_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed, and started with the same command and environment; other programs are left alone."""
    program, starts = tmp_path / "monitor.py", tmp_path / "starts"
    program.write_text(
        f"import os, time\nprint(os.getpid(), os.environ['MARK'], file=open({str(starts)!r}, 'a'))\ntime.sleep(600)"
    )
    monkeypatch.setattr(head_watch, "_LAUNCHER", str(program))  # not the monitor of another Ray on this machine
    monkeypatch.setattr(head_watch, "_LOGS", tmp_path)
    first = subprocess.Popen([sys.executable, program], env={"MARK": "kept"})
    assert wait_until(lambda: starts.exists() and starts.read_text().endswith("\n"), 30)
    head_watch.restart_launcher()
    assert first.wait(30) == -signal.SIGKILL
    assert wait_until(lambda: starts.read_text().count("\n") == 2, 30)
    pid, mark = starts.read_text().splitlines()[1].split()
    os.kill(int(pid), signal.SIGKILL)
    assert int(pid) != first.pid
    assert mark == "kept"


def test_the_launchers_state_is_read_by_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of nodes that it has started on; a file that is being written counts as empty."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert head_watch.read_launcher("test") == {}
    state = tmp_path / "ray" / "cluster-test.state"
    state.parent.mkdir()
    nodes = {
        "10.0.0.1": {"state": "running", "tags": {"ray-node-status": "up-to-date"}},
        "10.0.0.2": {"state": "running", "tags": {}},
        "10.0.0.3": {"state": "terminated", "tags": {"ray-node-status": "up-to-date"}},
    }
    state.write_text(json.dumps(nodes))
    assert head_watch.read_launcher("test") == {"10.0.0.1": "up-to-date", "10.0.0.2": "uninitialized"}
    state.write_text(json.dumps(nodes)[:40])
    assert head_watch.read_launcher("test") == {}
