"""A system without processes or files: a clear error, no leak, and a restart that waits for them."""

import contextlib
import os
import threading
from pathlib import Path

import pytest

from raylaunch.base.errors import EngineError, NoProcessError
from raylaunch.base.ports import find_free_ports
from raylaunch.engine.load_table import LoadTable
from raylaunch.engine.rehearsal import plan
from raylaunch.engine.rehearsal.plan import ResolvedLaunch
from raylaunch.serve.attempts import AttemptFactory, check_api_servers
from raylaunch.serve.faults import EngineFault
from raylaunch.serve.listener import listen
from raylaunch.serve.supervisor import Supervisor
from tests.config import launches

from .shortage import no_files


def count_files() -> int:
    return len([*Path("/proc/self/fd").iterdir()])


def test_a_shortage_is_told_and_nothing_leaks(tmp_path: Path) -> None:
    with listen("127.0.0.1", 0) as bound:
        launch = launches.load(launches.write(tmp_path))
        starts = AttemptFactory(ResolvedLaunch(launch), bound, tmp_path, loads=LoadTable.create(1))
        before = count_files()
        with no_files(), pytest.raises(NoProcessError, match="no process can be started: Too many open files"):
            starts.begin()
        assert count_files() == before
        attempt = starts.begin()
        assert attempt.engine.is_alive()
        attempt.end()
        assert count_files() == before


def test_workers_of_several_replicas_are_not_bound_to_the_same_cores(tmp_path: Path) -> None:
    """One that starts would hardly run beside one that decodes."""
    launch = launches.load(launches.write(tmp_path), "cluster.nodes=2", "cluster.gpus_per_node=1", "cluster.replicas=2",
                           "engine.tensor_parallel_size=1", "engine.pipeline_parallel_size=1")  # fmt: skip
    with listen("127.0.0.1", 0) as bound:
        resolved = ResolvedLaunch(launch, standin="cpu")
        attempt = AttemptFactory(resolved, bound, tmp_path, loads=LoadTable.create(32)).begin()
        environment = Path(f"/proc/{attempt.engine.process.identity.pid}/environ").read_text().split("\0")
        attempt.end()
    assert "VLLM_CPU_OMP_THREADS_BIND=nobind" in environment
    assert f"OMP_NUM_THREADS={max(1, (os.cpu_count() or 1) // 2)}" in environment


def test_the_rust_front_end_is_not_taken_silently(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its speed would be expected where it is asked for."""
    monkeypatch.setenv("VLLM_USE_RUST_FRONTEND", "1")
    check_api_servers(ResolvedLaunch(launches.load(launches.write(tmp_path))))
    assert "VLLM_USE_RUST_FRONTEND has no effect" in capfd.readouterr().err


def test_a_restart_that_never_comes_up_is_a_wedge() -> None:
    """Though its processes live: it is ended like an engine that stands still, and started again."""
    (port,) = find_free_ports(1)
    supervisor = Supervisor(
        plan.resolve(launches.load(None, f"server.port={port}", "server.host=127.0.0.1"), rehearse=False)
    )
    try:
        (replica,) = supervisor.replicas
        replica.attempts.append(replica.factory.begin())
        with pytest.raises(EngineError, match="did not come up within 1 s"):
            replica._wait(lambda: False, 1.0)
        replica.was_ready = True
        with pytest.raises(EngineFault) as caught:
            replica._wait(lambda: False, 1.0)
        assert caught.value.fault.cause == "wedge"
        assert "its start is wedged" in caught.value.fault.what
    finally:
        supervisor.stop()


def test_a_restart_waits_until_there_is_a_process() -> None:
    """After an engine that served a shortage is waited out, and the port answers with it."""
    (port,) = find_free_ports(1)
    sets = (f"server.port={port}", "server.host=127.0.0.1", "model.path=/nowhere/model")
    launch = launches.load(None, *sets)
    supervisor = Supervisor(plan.resolve(launch, rehearse=False))
    (replica,) = supervisor.replicas
    replica.was_ready = True
    try:
        with contextlib.ExitStack() as shortage:
            shortage.enter_context(no_files())
            threading.Timer(2.5, shortage.pop_all().close).start()
            attempt = replica.begin_and_place()
        assert attempt.engine.is_alive()
        assert "no process can be started" in supervisor.front.published.make_notice().text
    finally:
        supervisor.stop()
