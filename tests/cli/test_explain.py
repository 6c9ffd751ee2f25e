"""`raylaunch explain`: its arguments, exit codes and where its answer goes."""

import io
import json
from pathlib import Path

import pytest

from raylaunch.base import paths
from raylaunch.cli.main import _run
from raylaunch.explain.signatures import by_key
from raylaunch.serve.incident import Incident
from raylaunch.serve.last_failure import find_last_logs

OOM = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.74 GiB."


def test_a_cause_is_printed_and_exits_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "a.log"
    log.write_text(OOM)
    assert _run(["explain", str(log)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("cause: the memory of a GPU is full\n")
    assert f"where: {log}:1\n" in printed
    assert f"what to do: {by_key()['gpu_oom'].fix}\n" in printed


def test_nothing_known_exits_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.log").write_text("ERROR: the moon is full")
    assert _run(["explain", str(tmp_path)]) == 1
    assert "the moon is full" in capsys.readouterr().out


def test_stdin_and_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(OOM.encode())))
    assert _run(["explain", "--json", "-"]) == 0
    assert [cause["key"] for cause in json.loads(capsys.readouterr().out)["causes"]] == ["gpu_oom"]


def test_without_arguments_it_reads_the_service_here(capsys: pytest.CaptureFixture[str]) -> None:
    """The log that was written last, though its service has ended; without any, it names what to do."""
    assert _run(["explain"]) == 1
    assert "no service and no incident on this machine" in capsys.readouterr().err
    folder = paths.make_private(paths.home() / "services" / "8080")
    (folder / "engine.log").write_text(OOM)
    assert _run(["explain"]) == 0
    assert _run(["explain", "--port", "8081"]) == 1


def test_without_a_service_it_reads_the_last_incident() -> None:
    incident = Incident(id="20261124-061502-8080", port=8080, model="m", cause="worker", what="w").save()
    (incident.folder / "engine.log").write_text(OOM)
    assert find_last_logs(None) == [incident.folder / "engine.log"]
    assert _run(["explain"]) == 0


def test_an_incident_whose_log_is_silent_has_its_supervisors_cause(capsys: pytest.CaptureFixture[str]) -> None:
    """A wedge leaves no line in any log but those of the workers that the supervisor then kills."""
    what = "no token has moved for 60 s while 2 request(s) run: the engine is wedged"
    incident = Incident(
        id="20261124-061502-8080",
        port=8080,
        model="m",
        cause="wedge",
        what=what,
        fix="restart it",
        key="engine_stalled",
    ).save()
    (incident.folder / "engine.log").write_text("RayWorkerProc rank=[0] died unexpectedly, shutting down executor.\n")
    assert _run(["explain", "--json"]) == 0
    (cause,) = json.loads(capsys.readouterr().out)["causes"]
    assert (cause["key"], cause["what"], cause["fix"]) == ("engine_stalled", what, "restart it")
