"""`raylaunch upgrade` and `rollback` with real engines on CPU. Needs 2 cores and 4 GB of memory."""

import json
from pathlib import Path

import pytest

from raylaunch.engine.rehearsal.standin_model import Shape, write_standin

from .. import harness

pytestmark = [pytest.mark.engine, pytest.mark.faults, pytest.mark.whole]
SHAPE = Shape(heads=8, kv_heads=8, layers=2)


def write_launch(folder: Path, name: str, port: int, *, model: str = "good", seqs: int = 16) -> Path:
    launch = folder / f"{name}.yaml"
    launch.write_text(f"""\
model: {{repo: example/model, path: {folder / model}}}
cluster: {{local: true}}
engine: {{dtype: float32, enforce_eager: true, max_model_len: 1024, kv_cache_memory_bytes: 67108864,
          max_num_seqs: {seqs}}}
server: {{port: {port}}}
""")
    return launch


def read_slots(home: Path) -> int:
    """max_num_seqs of the launch that is served now, by the record of the last upgrade or rollback."""
    (file,) = home.glob("services/*/current.json")
    return int(json.loads(file.read_text())["launch"]["values"]["engine"]["max_num_seqs"])


@pytest.mark.timeout(900)
def test_the_service_ends_on_the_right_launch(tmp_path: Path) -> None:
    """An upgrade that passes stays and is rolled back; one that answers otherwise, one that is slower and one that does
    not start end with the old launch served."""
    home, port = tmp_path / "home", harness.find_free_port()
    write_standin(tmp_path / "good", SHAPE)
    write_standin(tmp_path / "other", SHAPE, seed=7)
    old = write_launch(tmp_path, "old", port)

    def upgrade(to: Path, *more: str) -> tuple[int, str]:
        done = harness.run(
            "upgrade", str(old), "--to", str(to), "--yes", "--measure-s=8", *more, home=home, timeout_s=400
        )
        return done.returncode, done.stdout + done.stderr

    def asks() -> str:
        done = harness.run("ask", "hello", "--max-tokens=4", home=home)
        return done.stderr if done.returncode else "answers"

    with harness.serving(home, str(old), port=port) as served:
        served.wait_ready()
        status, text = upgrade(write_launch(tmp_path, "other", port, model="other"))
        assert (status, "less likely" in text) == (1, True), text
        assert f"{old} is served" in text
        status, text = upgrade(write_launch(tmp_path, "gone", port, model="nothing"))
        assert status == 1, text
        status, text = upgrade(write_launch(tmp_path, "slow", port, seqs=1), "--at-once=8")
        assert (status, "not kept: closed" in text or "first token" in text) == (1, True), text
        status, text = upgrade(write_launch(tmp_path, "new", port, seqs=17))
        assert status == 0, text
        assert "engine.max_num_seqs: 16 -> 17" in text
        assert read_slots(home) == 17
        back = harness.run("rollback", home=home, timeout_s=400)
        assert back.returncode == 0, back.stderr
        assert read_slots(home) == 16
        assert asks() == "answers"
    reports = sorted((home / "upgrades").glob("*/verdict.json"))
    assert [json.loads(one.read_text())["kept"] for one in reports] == [False, False, False, True]
