"""The wheel that hosts are given: pip takes it, and it is this very package."""

import subprocess
import sys
import zipfile
from pathlib import Path

from raylaunch import __version__
from raylaunch.provision.wheel import write_wheel


def test_pip_installs_it(tmp_path: Path) -> None:
    """Into an empty folder, without a network: data files, entry points and version are there."""
    wheel = write_wheel(tmp_path)
    target = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", target, wheel],
        check=True, timeout=120,
    )  # fmt: skip
    code = (
        "import importlib.metadata as m, raylaunch, raylaunch.provision.artifacts, importlib.resources as r;"
        "info = m.distribution('raylaunch');"
        "print(raylaunch.__file__, info.version, *(entry.name for entry in info.entry_points));"
        "assert (r.files('raylaunch.data') / 'cluster.yaml').is_file()"
    )
    seen = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(target)}, cwd=tmp_path, capture_output=True, text=True,
        check=True,
    ).stdout.split()  # fmt: skip
    assert seen[0].startswith(str(target))
    assert seen[1:] == [__version__, "raylaunch", "raylaunch_rehearsal"]


def test_equal_content_is_an_equal_wheel(tmp_path: Path) -> None:
    """What is built twice is one layer, not two."""
    first = write_wheel(tmp_path).read_bytes()
    (tmp_path / "raylaunch-0.0.0-py3-none-any.whl").write_bytes(b"old")
    wheel = write_wheel(tmp_path)
    assert wheel.read_bytes() == first
    assert [*tmp_path.iterdir()] == [wheel]
    assert not [name for name in zipfile.ZipFile(wheel).namelist() if "__pycache__" in name]
