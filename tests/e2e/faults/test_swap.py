"""`raylaunch restart`: a changed launch is served, a wrong one is refused and the old engine serves on."""

import json
from pathlib import Path

import pytest

from .. import harness
from .stage import write_launch

pytestmark = [pytest.mark.engine, pytest.mark.faults]


def write_small(folder: Path, name: str, *, max_model_len: int, model: Path | None = None) -> Path:
    """One worker on this machine."""
    launch = folder / f"{name}.yaml"
    launch.write_text(f"""\
model: {{repo: example/{name}, path: {model or folder / "model"}}}
cluster: {{local: true}}
engine: {{dtype: float32, enforce_eager: true, max_model_len: {max_model_len}, kv_cache_memory_bytes: 33554432}}
""")
    return launch


@pytest.mark.timeout(600)
def test_restart_swaps_and_refuses(tmp_path: Path) -> None:
    """A launch whose model is not there, and one with a wrong key, change nothing; a right one is served after it."""
    write_launch(tmp_path)  # for its model
    home = tmp_path / "home"
    with harness.serving(home, str(write_small(tmp_path, "first", max_model_len=512))) as served:
        served.wait_ready()
        wrong = tmp_path / "wrong.yaml"
        wrong.write_text("model: {repo: a/b}\nengine: {max_model_length: 5}\n")
        refused = harness.run("restart", str(wrong), home=home)
        assert refused.returncode == 1
        assert "max_model_len" in refused.stderr
        gone = write_small(tmp_path, "gone", max_model_len=256, model=tmp_path / "nothing")
        started = harness.run("restart", str(gone), home=home)
        assert started.returncode == 1, started.stderr
        status = json.loads(harness.run("status", "--json", home=home).stdout)
        assert (status["models"][0], status["ready"], status["restarts"]) == ("example/first", True, 0)
        restarted = harness.run(
            "restart", str(write_small(tmp_path, "second", max_model_len=256)), home=home, timeout_s=300
        )
        assert restarted.returncode == 0, restarted.stderr + served.text()
        status = json.loads(harness.run("status", "--json", home=home).stdout)
        assert (status["models"][0], status["ready"], status["max_model_len"]) == ("example/second", True, 256)
        assert served.end() == 0
        assert served.wait_gone() == {}
