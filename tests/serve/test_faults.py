"""What is seen becomes a verdict: progress, back-off, causes; and nothing secret is kept."""

import contextlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from raylaunch.base.errors import ChecksFailedError, ClusterError, EngineError, LaunchFileError, NotEnoughGpusError
from raylaunch.base.processes import ProcessId, wait_until
from raylaunch.base.service_metrics import ServiceMetrics
from raylaunch.cluster import ray_session
from raylaunch.cluster.ray_session import ClusterNode
from raylaunch.engine.messages import EnginePulse, SocketShare
from raylaunch.explain.signatures import by_key, fix_of
from raylaunch.serve import faults
from raylaunch.serve import incident as incidents
from raylaunch.serve.attempt import Attempt, describe_missing
from raylaunch.serve.engine_process import EngineProcess
from raylaunch.serve.faults import EngineProgress, Fault
from raylaunch.serve.incident import find_secrets, hide
from raylaunch.serve.messages import DeadRank, DriverPulse
from raylaunch.serve.restart_policy import RestartPolicy
from raylaunch.serve.service_record import Service
from raylaunch.serve.systemd_unit import make_unit
from tests.config import launches


def pulse(running: int, moves: int) -> EnginePulse:
    return EnginePulse(running, moves)


def test_progress_counts_only_while_requests_run() -> None:
    progress = EngineProgress(0.0)
    progress.take(pulse(0, 0), 100.0)
    assert progress.age_s(100.0) == 0
    progress.take(pulse(3, 0), 101.0)
    assert progress.age_s(105.0) == pytest.approx(4.0)
    progress.take(pulse(3, 5), 106.0)
    assert progress.age_s(106.5) == pytest.approx(0.5)
    progress.take(pulse(3, 5), 150.0)
    assert progress.age_s(150.0) == pytest.approx(44.0)
    progress.take(pulse(0, 5), 151.0)
    assert progress.age_s(200.0) == 0


def test_no_cause_is_shown_that_is_replaced_later() -> None:
    """EngineCore's end is most often a rank's: it is not named before Ray was asked; a rank's own end is."""
    assert "EngineCore" not in faults.describe_first(Fault("engine", "EngineCore died"))
    assert faults.describe_first(Fault("worker", "rank 3 died")) == "rank 3 died"


def begin_incident(what: str) -> incidents.Incident:
    service = Service(8080, "127.0.0.1", ("a/b",), "f", ProcessId(1, 1), 1.0)
    return incidents.begin(service, Fault("start", what, "fix it"), 2)


def test_an_incident_has_the_fix_of_its_kind() -> None:
    """From the same table that explains logs."""
    service = Service(8080, "127.0.0.1", ("a/b",), "f", ProcessId(1, 1), 1.0)
    incident = incidents.begin(service, Fault("wedge", "no token has moved"), 2)
    assert incident.key == "engine_stalled"
    assert incident.fix == fix_of("engine_stalled")
    for cause in ("worker", "engine", "node", "gcs", "gpu", "wedge", "canary"):
        assert Fault(cause, "").key in by_key()


def test_one_cause_five_times_ends_it_and_waits_grow() -> None:
    recovery = RestartPolicy(5)
    waits = []
    for pid in range(4):
        what = f"rank died (pid {pid})"
        assert recovery.note_failure(begin_incident(what), Fault("start", what), was_serving=False)
        waits.append(recovery.wait_s())
    assert waits == [1, 2, 4, 8]
    assert not recovery.note_failure(begin_incident("x"), Fault("start", "rank died (pid 77)"), was_serving=False)
    assert "5 starts in a row failed for one cause: rank died" in recovery.give_up().what
    assert {entry.outcome for entry in incidents.list_incidents()} == {"gave up"}


def test_one_cause_is_one_whatever_its_sentence_says() -> None:
    """By the class of the error and its kind: the rule that found it, the signature in the log, the exception."""
    oom = [EngineError(f"worker rank {rank} (pid {rank}): no memory", fault_key="cuda_oom") for rank in (3, 5)]
    assert Fault.of_error(oom[0]).identity == Fault.of_error(oom[1]).identity
    others = (
        EngineError("x", fault_key="ValueError"),
        ChecksFailedError("x", fault_key="judge_gpus"),
        ChecksFailedError("x", fault_key="judge_model"),
        ClusterError("x"),
    )
    assert len({Fault.of_error(error).identity for error in (oom[0], *others)}) == 5


def test_another_cause_or_a_ready_engine_begins_anew() -> None:
    recovery = RestartPolicy(2)
    for kind in ("CUDA out of memory", "ValueError", "CUDA out of memory", "ValueError"):
        fault = Fault.of_error(EngineError("the engine failed", fault_key=kind))
        assert recovery.note_failure(begin_incident(kind), fault, was_serving=False)
    recovery.note_ready()
    assert recovery.wait_s() == 0
    assert recovery.note_failure(begin_incident("b"), Fault("start", "b"), was_serving=False)
    assert recovery.note_failure(begin_incident("c"), Fault("worker", "c"), was_serving=True)
    assert recovery.wait_s() == 0


def test_a_cause_is_the_first_death_not_those_it_took_along() -> None:
    """What Ray 2.60 reports after kill -9 of one rank: EngineCore then ended the others."""
    killed = "The actor is dead because it was killed by `ray.kill`."
    unexpected = (
        "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: "
        "Worker unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) the "
        "process was killed by the OOM killer due to high memory usage"
    )
    dead = (
        DeadRank(rank=0, ip="10.0.0.1", node="a", pid=10, why=killed, ended_at=100),
        DeadRank(rank=2, ip="10.0.0.2", node="b", pid=12, why=unexpected, ended_at=101),
    )
    found = faults.judge_ray(DriverPulse(dead=dead))
    assert found is not None
    assert found.cause == "worker"
    assert found.what.startswith("worker rank 2 on node 10.0.0.2 (pid 12) died: killed (most likely signal 9")
    found = faults.judge_ray(DriverPulse(gone=("10.0.0.2",), dead=dead))
    assert found is not None
    assert (found.cause, "10.0.0.2" in found.what) == ("node", True)
    found = faults.judge_ray(DriverPulse(dead=dead[:1]))
    assert found is not None
    assert found.cause == "engine"
    assert faults.judge_ray(DriverPulse()) is None


def test_clients_are_told_how_the_core_ended(tmp_path: Path) -> None:
    """Its signal is in the fault that is settled on, though Ray only reports that its workers went with it."""
    with (tmp_path / "log").open("wb") as log:
        engine = EngineProcess.launch(
            "tests.serve.pulsing_child", arguments=[str(tmp_path / "failed"), "-9"], environment=os.environ, output=log
        )
    try:
        assert wait_until(lambda: engine.receive() != [] and engine.pulse.is_dead, 30.0)
        attempt = Attempt("mark", engine, SocketShare(-1, 1))
        fault = faults.settle(attempt, Fault("engine", "its workers ended with it"), time.monotonic())
        assert fault.what.endswith("(EngineCore, on the serving node) died by signal 9")
        assert faults.settle(attempt, Fault("node", "a node is gone"), 0.0).what == "a node is gone"
    finally:
        engine.stop(is_forced=lambda: True)


def test_a_killed_engine_is_not_explained_by_what_its_servers_logged(tmp_path: Path) -> None:
    """Of several API servers, each logs the errors that it gives to its clients then."""
    with (tmp_path / "log").open("wb") as log:
        log.write(b"(ApiServer_0 pid=7) ERROR 11-28 09:01:21 [serving.py:1] Error in completion stream generator.\n")
        engine = EngineProcess.launch(
            "tests.serve.pulsing_child", arguments=[str(tmp_path / "failed"), "-9"], environment=os.environ,
            output=log, log=tmp_path / "log",
        )  # fmt: skip
    try:
        assert wait_until(lambda: engine.receive() != [] and engine.pulse.is_dead, 30.0)
        os.kill(engine.process.identity.pid, signal.SIGKILL)
        assert engine.explain_death().what == "the engine's process ended by signal 9"
    finally:
        engine.stop(is_forced=lambda: True)


def test_a_node_that_is_gone_is_named() -> None:
    """Of two nodes one is left: the note counts the GPUs and names the other; it is empty once both are back."""
    reported: list[ray_session.GpuWait] = []
    nodes = [ClusterNode(f"n{number}", f"10.0.0.{number}", f"h{number}", 8, number == 1) for number in (1, 2)]
    for here in (nodes[:1], nodes):
        with contextlib.suppress(NotEnoughGpusError):
            ray_session.wait_for_gpus(
                nodes=2, gpus_per_node=8, wait_s=0, report=reported.append,
                inspect=lambda here=here: tuple(here), count=lambda: 16,
            )  # fmt: skip
    notes = [describe_missing(waiting, ["10.0.0.1", "10.0.0.2"], 12.2) for waiting in reported]
    assert notes == ["waiting for GPUs: 1 of 2 nodes missing, 8 of 16 GPUs found, node 10.0.0.2 gone since 12 s", ""]


def test_metrics_are_prometheus_text() -> None:
    throttled = (("10.0.0.1", 3, "thermal"),)
    metrics = ServiceMetrics(
        state="restarting", restarts=2, gpus_expected=16, incidents={"worker": 1}, throttled=throttled
    )
    families = {family.name: family for family in text_string_to_metric_families(metrics.to_text())}
    values = {
        (sample.name, *sample.labels.values()): sample.value
        for family in families.values()
        for sample in family.samples
    }
    assert values["raylaunch_up",] == 0
    assert values["raylaunch_state", "restarting"] == 1
    assert values["raylaunch_restarts_total",] == 2
    assert values["raylaunch_incidents_total", "worker"] == 1
    assert values["raylaunch_gpu_throttled", "3", "10.0.0.1", "thermal"] == 1


def test_secrets_are_found_and_hidden() -> None:
    values = {"server": {"api_key": ["sk-one", "sk-two"], "port": 8080}, "engine": {"hf_token": "hf_abc"}}
    secrets = find_secrets(values, {"HF_TOKEN": "hf_environ", "PATH": "/bin", "SOME_PASSWORD": "pw"})
    assert set(secrets) == {"sk-one", "sk-two", "hf_abc", "hf_environ"}
    assert hide("Bearer sk-one, hf_environ; port 8080", secrets) == "Bearer ********, ********; port 8080"


def test_an_incident_is_read_back(tmp_path: Path) -> None:
    incident = begin_incident("it died").note_end([7]).close("serving again")
    assert incident.left == ("7",)
    assert incident.timeline[-1][1] == "ended; had to be killed: 7"
    assert incidents.find_incident("last") == incident
    assert incidents.find_incident(incident.id).to_lines()[0].endswith("it died")
    assert (incident.folder / "incident.json").stat().st_mode & 0o077 == 0
    assert json.loads((incident.folder / "incident.json").read_text())["requests"] == 2


def test_a_folder_that_cannot_be_written_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """No file can be made below a file: a warning, and the incident continues in memory."""
    home = Path("/dev/null")
    monkeypatch.setenv("RAYLAUNCH_HOME", str(home))
    assert begin_incident("no room").close("stopped").outcome == "stopped"


def test_a_unit_holds_no_secret(tmp_path: Path) -> None:
    launch = launches.load(launches.write(tmp_path, launches.BASE + "keep: {drain_s: 45}\n"))
    unit = make_unit(launch, sets=["server.port=8090"], rehearse=False, home=tmp_path, environ={"HF_TOKEN": "hf_x"})
    assert "Restart=always" in unit
    assert "--set server.port=8090" in unit
    assert "TimeoutStopSec=105" in unit
    assert "hf_x" not in unit
    with pytest.raises(LaunchFileError, match="secret"):
        make_unit(launch, sets=["server.api_key=sk-1"], rehearse=False, home=tmp_path, environ={})


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    """systemd's own check finds nothing wrong with it, odd characters in a value included."""
    launch = launches.load(launches.write(tmp_path, launches.BASE))
    sets = ["model.path=/data/100 % $HOME"]
    unit = tmp_path / "raylaunch.service"
    unit.write_text(make_unit(launch, sets=sets, rehearse=True, home=tmp_path, environ={"HF_HOME": "/a $b %c"}))
    assert '"model.path=/data/100 %% $$HOME"' in unit.read_text()
    assert 'Environment="HF_HOME=/a $b %%c"' in unit.read_text()
    ray = unit.with_name("raylaunch-ray.service")
    behind = unit.read_text().partition("as raylaunch-ray.service, and")[2]
    ray.write_text("\n".join(line.removeprefix("#   ") for line in behind.splitlines() if line.startswith("#   ")))
    assert "ExecStart=" in ray.read_text()
    checked = subprocess.run(
        ["systemd-analyze", "verify", str(unit), str(ray)], capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stderr) == (0, "")
