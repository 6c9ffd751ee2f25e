"""The progress of a start, as its log grows."""

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from raylaunch.serve import start_progress
from raylaunch.serve.engine_process import EngineProcess
from raylaunch.serve.start_progress import StartProgress


def test_each_stage_is_printed_and_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once; the same again only after a while. It ends when the server accepts."""
    monkeypatch.setattr(start_progress, "_LOOK_S", 0.0)
    engine = SimpleNamespace(log=tmp_path / "engine.log", is_accepting=False)
    notes: list[str] = []
    progress = StartProgress(cast("EngineProcess", engine), 4, notes.append)
    assert not progress.follow()
    engine.log.write_text("Starting to load model x\nLoading safetensors checkpoint shards:  50% Completed | 1/2 [\n")
    assert not progress.follow()
    assert not progress.follow()
    assert notes == ["starting 4 vLLM worker(s)", "starting 4 vLLM worker(s): loading the weights, 1 of 2 files"]
    monkeypatch.setattr(start_progress, "_PRINT_S", 0.0)
    engine.is_accepting = True
    assert progress.follow()
    printed = capsys.readouterr().err.splitlines()
    assert [line.partition(" | ")[0] for line in printed[1:]] == ["loading the weights, 1 of 2 files"] * 2
