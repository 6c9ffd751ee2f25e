"""The supervisor and its replicas at full speed: real processes, sockets and messages around no engine.

tests/e2e/test_replicas.py has the same with engines.
"""

import contextlib
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from raylaunch.base.errors import ServiceError
from raylaunch.base.ipc import ChildLink
from raylaunch.base.ports import find_free_ports
from raylaunch.base.processes import wait_until
from raylaunch.config import launch_file
from raylaunch.config.launch import LaunchConfig
from raylaunch.engine.rehearsal import plan
from raylaunch.engine.rehearsal.plan import ResolvedLaunch
from raylaunch.serve import incident as incidents
from raylaunch.serve.control_socket import request_restart
from raylaunch.serve.service_record import Service
from raylaunch.serve.supervisor import Supervisor
from tests.config import launches
from tests.e2e.faults.clients import Clients, Hammer
from tests.serve.engine_double import EVENTS

DEADLINE_S = 60.0
DOUBLES = {
    "raylaunch.engine.api_server": "tests.serve.engine_double",
    "raylaunch.serve.driver_main": "tests.serve.driver_double",
}


@dataclass
class Running:
    """A service of doubles."""

    supervisor: Supervisor
    launch: LaunchConfig
    path: Path

    @property
    def service(self) -> Service:
        return self.supervisor.front.published.service

    def is_ready(self) -> bool:
        ready = [one for one in self.service.replicas if one.state == "ready" and one.api_servers]
        return len(ready) == self.launch.replicas

    def list_pids(self) -> list[int]:
        return [pid for replica in self.service.replicas for pid in replica.api_servers]

    def ask(self, streaming: int) -> Clients:
        clients = Clients(self.service.url, "owner/name")
        clients.start(streaming=streaming, plain=0)
        return clients

    def restart(self, *sets: str) -> str:
        launch = launches.load(self.path, *sets, f"server.port={self.launch.port}", "server.host=127.0.0.1")
        return request_restart(self.service.folder, launch, report=print, timeout_s=DEADLINE_S)


def resolve(launch: LaunchConfig, *, rehearse: bool) -> ResolvedLaunch:
    """No engine need be installed."""
    return ResolvedLaunch(launch, is_rehearsal=rehearse)


@contextlib.contextmanager
def running(
    folder: Path, monkeypatch: pytest.MonkeyPatch, replicas: int = 1, *, nodes: int = 0, more: str = ""
) -> Iterator[Running]:
    launch_process = ChildLink.launch.__func__  # type: ignore[attr-defined]
    monkeypatch.setattr(
        ChildLink, "launch", classmethod(lambda cls, module, **more: launch_process(cls, DOUBLES[module], **more))
    )
    monkeypatch.setattr(plan, "resolve", resolve)
    monkeypatch.setattr("raylaunch.serve.replica._KEEP_ALIVE_S", 0.0)
    (port,) = find_free_ports(1)
    path = launches.write(folder, "model: {repo: owner/name, path: /nowhere/model}\nkeep: {stand_by: false}\n")
    path.write_text(path.read_text() + f"cluster: {{nodes: {nodes or replicas}, replicas: {replicas}}}\n{more}")
    launch = launches.load(path, f"server.port={port}", "server.host=127.0.0.1")
    fallbacks = tuple(ResolvedLaunch(other) for other in launch_file.list_fallbacks(launch))
    supervisor = Supervisor(ResolvedLaunch(launch, fallbacks=fallbacks))
    thread = threading.Thread(target=supervisor.run)
    thread.start()
    try:
        one = Running(supervisor, launch, path)
        assert wait_until(one.is_ready, DEADLINE_S), one.service
        yield one
    finally:
        supervisor.front.stopping.set()
        thread.join()
        supervisor.stop()


def test_one_engine_dies_and_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its clients' connections close, the port answers 503 meanwhile; then another launch in its place."""
    with running(tmp_path, monkeypatch, 1) as one, Hammer(one.service.url) as hammer:
        (pid,) = one.list_pids()
        assert one.supervisor.replicas[0].factory.private_url is None
        clients = one.ask(3)
        os.kill(pid, signal.SIGKILL)
        clients.wait()
        assert clients.describe() == "3 x stream: HTTP 200, connection closed (stream broke off)"
        assert wait_until(lambda: one.is_ready() and one.list_pids() != [pid], DEADLINE_S)
        assert wait_until(lambda: incidents.list_incidents()[0].outcome == "serving again", DEADLINE_S)
        (incident,) = incidents.list_incidents()
        assert (incident.cause, incident.replica) == ("engine", 0)
        streams = one.ask(3)
        assert "is served at" in one.restart("engine.max_model_len=64")
        streams.wait()
        assert streams.describe() == "3 x stream: HTTP 200, complete"
        with pytest.raises(ServiceError, match="it is too long"):
            one.restart("engine.max_model_len=1")
        assert one.service.restarts == 2
        hammer.pause()
        assert hammer.refused == []
        assert set(hammer.statuses) == {200, 503}


def test_replicas_die_and_change_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The streams of the other one run on, and never a 503; a restart under steady clients has no error at all."""
    with running(tmp_path, monkeypatch, 2) as two, Hammer(two.service.url) as hammer:
        assert [replica.nodes for replica in two.service.replicas] == [("10.0.0.0",), ("10.0.0.1",)]
        assert len({replica.factory.private_url for replica in two.supervisor.replicas}) == 2
        said = capfd.readouterr().err
        for line in (f"serving owner/name at {two.service.url}/v1", "replica [01]: .* at http.*, too", "  curl .*"):
            assert len(re.findall(f"^{line}$", said, re.MULTILINE)) == 1, said
        first, second = two.list_pids()
        clients = two.ask(12)
        os.kill(second, signal.SIGKILL)
        clients.wait()
        complete = [sent for sent in clients.sent if not sent.error]
        assert 0 < len(complete) < 12, clients.describe()
        assert {sent.tokens for sent in complete} == {EVENTS}
        assert wait_until(lambda: two.is_ready() and second not in two.list_pids(), DEADLINE_S)
        assert two.list_pids()[0] == first
        assert [incident.replica for incident in incidents.list_incidents()] == [1]
        assert "\nreplica 1: serving owner/name again" in capfd.readouterr().err

        before, errors, until = two.list_pids(), [], time.monotonic() + 1.0
        restarting = threading.Thread(target=two.restart, args=("engine.max_model_len=64",))
        restarting.start()
        while restarting.is_alive() or time.monotonic() < until:
            steady = two.ask(8)
            steady.wait()
            errors += [sent.error for sent in steady.sent if sent.error]
        assert errors == []
        assert wait_until(two.is_ready, DEADLINE_S)
        assert not {*before} & {*two.list_pids()}
        assert {replica.launch.max_model_len for replica in two.supervisor.replicas} == {64}
        with pytest.raises(ServiceError, match="the service has 2"):
            two.restart("cluster.replicas=1")
        hammer.pause()
        assert (hammer.refused, set(hammer.statuses)) == ([], {200})


FALLBACK = """\
engine: {pipeline_parallel_size: 2, max_model_len: 1024}
fallback:
  after_s: 1
  steady_s: 1
  layouts:
    - cluster: {nodes: 1}
      engine: {pipeline_parallel_size: 1, max_model_len: 512}
"""


def test_a_lost_node_is_done_without_until_it_is_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fallback serves, goes back in a quiet moment only, and is the old launch of a restart that is refused."""
    nodes = tmp_path / "nodes"
    nodes.write_text("1 1")
    monkeypatch.setenv("DRIVER_DOUBLE_NODES", str(nodes))
    with running(tmp_path, monkeypatch, nodes=2, more=FALLBACK) as one, Hammer(one.service.url) as hammer:
        replica = one.supervisor.replicas[0]
        nodes.write_text("1")

        def waits_with_one_gpu() -> bool:
            text = one.supervisor.front.published.metrics.to_text()
            return "after 1 s a fallback layout is served" in one.service.note and "raylaunch_gpus_present 1.0" in text

        assert wait_until(waits_with_one_gpu, DEADLINE_S)
        assert wait_until(lambda: one.service.layout == 1 and one.is_ready(), DEADLINE_S)
        assert (replica.launch.world_size, one.service.ranks[0].ip, len(one.service.ranks)) == (1, "10.0.0.0", 1)
        assert "1 of 2 nodes" in one.service.degraded
        assert "raylaunch_degraded 1.0" in one.supervisor.front.published.metrics.to_text()
        assert f"; degraded: {one.service.degraded}" in one.supervisor.front.published.make_notice().text
        with pytest.raises(ServiceError, match="it is too long"):
            one.restart("engine.max_model_len=1")
        assert one.service.layout == 1

        busy = [one.ask(2), one.ask(2)]
        nodes.write_text("1 1")
        assert wait_until(lambda: "returns after 1 s with at most 1 request(s)" in one.service.degraded, DEADLINE_S)
        assert not replica.is_due_back
        for clients in busy:
            clients.wait()
            assert clients.describe() == "2 x stream: HTTP 200, complete"
        assert wait_until(lambda: one.service.layout == 0 and one.is_ready(), DEADLINE_S)
        assert (replica.launch.world_size, one.service.degraded, len(one.service.ranks)) == (2, "", 2)
        (incident,) = incidents.list_incidents()
        assert (incident.cause, incident.outcome) == ("node", "serving again")
        assert any("fallback layout 1 of 1" in text for _, text in incident.timeline)
        hammer.pause()
        assert (hammer.refused, set(hammer.statuses)) == ([], {200, 503})


def test_a_restart_goes_back_from_a_fallback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A first start without all nodes serves the fallback; with `return: never` only a restart ends it."""
    nodes = tmp_path / "nodes"
    nodes.write_text("1")
    monkeypatch.setenv("DRIVER_DOUBLE_NODES", str(nodes))
    more = FALLBACK.replace("steady_s: 1", "return: never")
    with running(tmp_path, monkeypatch, nodes=2, more=more) as one:
        assert (one.service.layout, one.service.restarts, incidents.list_incidents()) == (1, 0, [])
        nodes.write_text("1 1")
        assert wait_until(lambda: "`raylaunch restart LAUNCH.yaml` returns" in one.service.degraded, DEADLINE_S)
        assert "is served at" in one.restart()
        assert (one.service.layout, one.service.degraded, len(one.service.ranks)) == (0, "", 2)


def test_all_replicas_drain_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(tmp_path, monkeypatch, 2) as two:
        clients = two.ask(6)
        pids = two.list_pids()
    clients.wait()
    assert clients.describe() == "6 x stream: HTTP 200, complete"
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
