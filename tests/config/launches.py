"""What the tests of launch files share."""

from pathlib import Path

import pytest

from raylaunch.base.errors import LaunchFileError
from raylaunch.config import launch_file
from raylaunch.config.launch import LaunchConfig

REFERENCE = Path(__file__).parents[2] / "configs" / "deepseek-r1-70b.yaml"
BASE = """\
model:
  repo: owner/name
  path: /nowhere/model
cluster:
  nodes: 2
  gpus_per_node: 8
engine:
  tensor_parallel_size: 4
  pipeline_parallel_size: 4
"""


def write(folder: Path, content: str | bytes = BASE) -> Path:
    """Write a launch file into a folder and return its path."""
    path = folder / "launch.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def load(path: Path | None, *sets: str, **environ: str) -> LaunchConfig:
    """Load with flags and variables as they are written."""
    return launch_file.load(path, sets=sets, environ=environ)


def problems_of(path: Path | None, *sets: str, **environ: str) -> tuple[str, ...]:
    """The problems that loading reports."""
    with pytest.raises(LaunchFileError) as caught:
        load(path, *sets, **environ)
    assert caught.value.fix
    return caught.value.problems
