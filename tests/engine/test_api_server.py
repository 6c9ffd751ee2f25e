"""The serving child's imports: vLLM moves its functions from release to release."""

import os
import subprocess
import sys
from pathlib import Path

from raylaunch.base.ipc import DESCRIPTOR_VARIABLE


def test_missing_package_of_vllms_is_named(tmp_path: Path) -> None:
    """A vLLM whose own requirement is not installed: that package's name, not a list of searched places."""
    place = tmp_path / "vllm" / "entrypoints" / "launchers" / "api_server"
    place.mkdir(parents=True)
    for folder in (place, *place.parents[:3]):
        (folder / "__init__.py").write_text("")
    (place / "entry.py").write_text("import a_package_that_is_not_there\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "raylaunch.engine.api_server"],
        env=os.environ | {"PYTHONPATH": path, DESCRIPTOR_VARIABLE: "1"}, capture_output=True, text=True, check=False,
        timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith("No module named 'a_package_that_is_not_there'")
