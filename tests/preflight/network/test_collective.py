"""The process of the collectives: what it leaves behind. PyTorch is a stand-in that hangs, as in a broken network."""

import inspect
import json
import subprocess
import sys
from pathlib import Path

from raylaunch.base.processes import group_exists, kill_group, wait_until
from raylaunch.node.network import collective

HANGS = "import time\n\n\ndef TCPStore(*_):\n    time.sleep(600)\n"


def test_a_trial_that_hangs_ends_with_its_actor(tmp_path: Path) -> None:
    """Ray kills the actor when a driver dies: nobody is left to kill the trial."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/__init__.py").write_text("__version__ = '0'\n")
    (tmp_path / "torch/distributed.py").write_text(HANGS)
    process = subprocess.Popen(
        [sys.executable, "-c", inspect.getsource(collective)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, env={"PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    order = {"name": "gloo", "rank": 0, "world": 2, "host": "127.0.0.1", "port": 1, "backend": "gloo", "timeout_s": 600,
             "environment": {}, "tasks": []}  # fmt: skip
    try:
        process.stdin.write(json.dumps(order).encode() + b"\n")
        process.stdin.flush()
        assert [json.loads(process.stdout.readline())["step"] for _ in range(2)] == ["imported", "begun"]
        process.stdin.close()
        assert process.wait(timeout=30) == 0
        assert wait_until(lambda: not group_exists(process.pid), 30)
    finally:
        kill_group(process.pid)
        process.wait()
        process.stdout.close()
