"""`raylaunch restart`: a changed launch is served, a wrong one is refused and the old engine serves on."""

import http.client
import json
import signal
from pathlib import Path

import pytest

from raylaunch.base.processes import wait_until
from raylaunch.engine.rehearsal.standin_model import Shape, write_standin

from .. import harness
from ..apis import CALLS, ask_all, calling

pytestmark = [pytest.mark.engine, pytest.mark.faults]
DRAIN_S = 4.0
"""Longer than the limit for a mute API server (serve/engine_process.py)."""


def write_small(folder: Path, name: str, *, max_model_len: int, model: Path | None = None) -> Path:
    """One worker on this machine; every launch answers to the name "model"."""
    launch = folder / f"{name}.yaml"
    launch.write_text(f"""\
model: {{repo: example/{name}, path: {model or folder / "model"}}}
cluster: {{local: true}}
engine:
  {{dtype: float32, enforce_eager: true, max_model_len: {max_model_len}, kv_cache_memory_bytes: 268435456,
   served_model_name: [example/{name}, model]}}
keep: {{drain_s: {DRAIN_S}}}
""")
    return launch


def refuses_for_good(url: str) -> bool:
    """Whether the service answers 503, and not when to come again."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
    connection.request("GET", "/health")
    answer = connection.getresponse()
    return answer.status == 503 and "Retry-After" not in answer.headers


@pytest.mark.timeout(600)
def test_restart_swaps_and_refuses(tmp_path: Path) -> None:
    """A launch whose model is not there, and one with a wrong key, change nothing; a right one is served after it.

    Requests of all APIs that outlast the drain of the restart, and of the stop, get an error in their API's format;
    the calls of clients that retry as they do by default all succeed.
    """
    write_standin(tmp_path / "model", Shape(heads=8, kv_heads=8, layers=24))
    home = tmp_path / "home"
    with harness.serving(home, str(write_small(tmp_path, "first", max_model_len=2048))) as served:
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
        asked = ask_all(served.url, "model")
        second = write_small(tmp_path, "second", max_model_len=2040)
        with calling(served.url, "model") as caller:
            restarted = harness.run("restart", str(second), home=home, timeout_s=300)
        assert restarted.returncode == 0, restarted.stderr + served.text()
        for one in asked:
            one.end("the service is being restarted")
        assert caller.errors == []
        assert len(caller.answers) >= CALLS
        status = json.loads(harness.run("status", "--json", home=home).stdout)
        assert (status["models"][0], status["ready"], status["max_model_len"]) == ("example/second", True, 2040)
        assert status["restarts"] == 1
        asked = ask_all(served.url, "model")
        served.process.send_signal(signal.SIGTERM)
        assert wait_until(lambda: refuses_for_good(served.url), 30)
        for one in asked:
            one.end("the service was stopped")
        assert served.process.wait(harness.END_DEADLINE_S) == 0
        assert served.wait_gone() == {}
