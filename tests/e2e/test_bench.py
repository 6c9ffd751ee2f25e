"""`raylaunch bench` against a real engine: the demo model under a small load."""

import json
from pathlib import Path

import pytest

from . import harness
from .test_demo import put_model

pytestmark = pytest.mark.engine


@pytest.mark.timeout(600)
def test_bench_measures_the_demo(tmp_path: Path, smollm2_folder: Path) -> None:
    """A sweep in chat with our own questions, and exact synthetic prompts: counts, files, the engine's figures."""
    home = tmp_path / "home"
    put_model(home, smollm2_folder)
    result = tmp_path / "sweep.json"
    with harness.serving(home) as served:
        served.wait_ready()
        done = harness.run(
            "bench", "-c", "1,4", "-n", "8", "--max-tokens", "48", "--warmup", "2", "-o", str(result), home=home,
            timeout_s=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert "valid: the client kept up" in done.stdout
        sweep = json.loads(result.read_text())
        assert [level["requests_ok"] for level in sweep["levels"]] == [8, 8]
        assert sweep["tokens_counted_by"] == "usage"
        assert 0 < sweep["output_tokens"] <= 8 * 48
        assert max(level["engine"]["running_max"] for level in sweep["levels"]) >= 1, sweep  # each lasts many samples
        assert sweep["levels"][1]["samples"][0]["nodes"][0]["cpu_percent"] is not None

        exact = harness.run(
            "bench", "--input-tokens", "40", "--output-tokens", "16", "-c", "4", "-n", "8", "--warmup", "0", "--json",
            "-o", str(tmp_path / "exact.json"), home=home, timeout_s=300,
        )  # fmt: skip
        assert exact.returncode == 0, exact.stderr
        result = json.loads(exact.stdout)
        assert (result["input_tokens"], result["output_tokens"]) == (8 * 40, 8 * 16)
        assert result["asked"]["prompts"] == "synthetic text, 40 tokens"
        assert result["versions"]["vllm"]
