"""The serving child's imports: vLLM moves its functions from release to release."""

import os
import subprocess
import sys
from pathlib import Path


def test_missing_package_of_vllms_is_named(tmp_path: Path) -> None:
    """A vLLM whose own requirement is not installed: that package's name, not a list of places looked at."""
    place = tmp_path / "vllm" / "entrypoints" / "launchers" / "api_server"
    place.mkdir(parents=True)
    for folder in (place, *place.parents[:3]):
        (folder / "__init__.py").write_text("")
    (place / "entry.py").write_text("import a_package_that_is_not_there\n")
    done = subprocess.run(
        [sys.executable, "-m", "raylaunch.engine.api_server", "--events", "1"],
        env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith("No module named 'a_package_that_is_not_there'")
