"""An API server whose requests outlast the drain: it gives them their error."""

import os
from pathlib import Path

from raylaunch.base.processes import wait_until
from raylaunch.serve.engine_process import _MUTE_S, EngineProcess


def test_requests_that_outlast_the_drain_get_an_error(tmp_path: Path) -> None:
    """A drain longer than the limit for a mute process: its pulses count, so it is asked to fail and not killed."""
    failed = tmp_path / "failed"
    with (tmp_path / "log").open("wb") as log:
        engine = EngineProcess.launch(
            "tests.serve.pulsing_child", arguments=[str(failed)], environment=os.environ, output=log
        )
    try:
        assert wait_until(lambda: bool(engine.receive()) or engine.is_accepting, 30.0)
        engine.drain(_MUTE_S + 1.0, lambda: False, "the service was stopped")
        assert failed.read_text() == "the service was stopped"
        assert engine.describe_end() == "with exit status 0"
    finally:
        engine.stop(is_forced=lambda: True)
