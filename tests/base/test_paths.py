"""Private files are written atomically and for their owner only."""

from pathlib import Path

import pytest

from raylaunch.base import paths


def test_private_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    """Mode 0600 in a folder of 0700; no temporary file is left; text that is no valid UTF-8 is written with a "?"."""
    path = tmp_path / "services" / "8080" / "service.json"
    paths.write_private(path, "first")
    paths.write_private(path, b"second \xff")
    assert path.read_bytes() == b"second \xff"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert [entry.name for entry in path.parent.iterdir()] == ["service.json"]
    paths.write_private(path, "half of a surrogate pair: \ud83d")
    assert path.read_text() == "half of a surrogate pair: ?"


def test_write_that_fails_is_a_warning(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A folder that cannot be created (a file is in its place) gives a warning with the path and the reason."""
    (tmp_path / "file").write_text("")
    paths.write_quietly(tmp_path / "file" / "incident.json", "{}")
    assert f"warning: cannot write {tmp_path}/file/incident.json: " in capfd.readouterr().err
