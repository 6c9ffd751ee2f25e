"""Lines of progress."""

import pytest

from raylaunch.base.console import ProgressLine, live_lines


def test_without_a_terminal_a_line_is_written_when_its_state_changes(capfd: pytest.CaptureFixture[str]) -> None:
    """Not when only the seconds do; what a name or a state holds does not matter."""
    with live_lines() as show:
        show([ProgressLine("fe80::1", "worker: waiting | 2", "1 s"), ProgressLine("b", "ready")])
        show([ProgressLine("fe80::1", "worker: waiting | 2", "2 s"), ProgressLine("b", "ready")])
        show([ProgressLine("fe80::1", "worker: joined", "3 s"), ProgressLine("b", "ready")])
    lines = capfd.readouterr().err.splitlines()
    assert lines == ["fe80::1: worker: waiting | 2 | 1 s", "b: ready", "fe80::1: worker: joined | 3 s"]
