"""Failures of Ray's launcher, counted in its log (recorded from Ray 2.60)."""

from pathlib import Path

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
