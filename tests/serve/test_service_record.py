"""The record of a service: written and read back, and what `status` makes of it."""

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from raylaunch.base.errors import ServiceError
from raylaunch.base.processes import ProcessId
from raylaunch.base.viewpoint import VARIABLE, Viewpoint
from raylaunch.config.launch_file import load
from raylaunch.engine.messages import EngineReady
from raylaunch.serve.messages import PlacedRank
from raylaunch.serve.published_state import PublishedState
from raylaunch.serve.readiness import StartupTimes
from raylaunch.serve.service_record import Service, find_service, list_services
from raylaunch.serve.status import query

TIMES = StartupTimes(0.0, 1.0, 2.0, 3.0, 4.0, None, None, 5.0, 15.0)


def make_service() -> Service:
    identity = ProcessId.of(os.getpid())
    assert identity is not None
    return Service(
        port=1,
        host="127.0.0.1",
        models=("a/b",),
        fingerprint="f",
        supervisor=identity,
        started_at=1.0,
        group_leaders=(identity,),
        ranks=(PlacedRank(0, 0, 0, "10.0.0.1", 1, "node", pid=7),),
        engine=EngineReady(kv_cache_tokens=1024, max_model_len=512),
        startup=TIMES,
    )


def test_a_record_is_read_back() -> None:
    """With every nested value; an unreadable record, and a field of another version, do no harm."""
    service = make_service().save()
    assert list_services() == [service]
    path = service.folder / "service.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"field_of_another_version": 1}))
    assert list_services() == [service]
    other = replace(service, port=2).save()
    (other.folder / "service.json").write_text("{")
    assert list_services() == [service]
    service.forget()
    assert list_services() == []


def test_texts_are_those_of_the_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read on a laptop: the head's address, and commands with --cluster; here: this machine and plain commands."""
    service = replace(make_service(), host="0.0.0.0", restarts=1, last_incident="one").save()
    assert query(service).url == "http://127.0.0.1:1"
    assert "started again 1 time(s); `raylaunch incidents one`" in query(service).to_lines()
    view = Viewpoint("c.yaml", "10.0.0.1")
    monkeypatch.setenv(VARIABLE, view.to_words()[1].partition("=")[2])
    assert query(service).url == "http://10.0.0.1:1"
    assert "started again 1 time(s); `raylaunch incidents one --cluster c.yaml`" in query(service).to_lines()
    with pytest.raises(ServiceError, match=r"nothing serves on the head 10\.0\.0\.1 on port 9") as caught:
        find_service(9)
    assert caught.value.fix == "0 of 1 hosts have joined Ray: continue with `raylaunch up c.yaml`"
    monkeypatch.delenv(VARIABLE)
    with pytest.raises(ServiceError, match="nothing serves on this machine on port 9"):
        find_service(9)


def test_a_state_counts_from_its_own_beginning(tmp_path: Path) -> None:
    """Restarting after hours of service: since the restart began; a new note does not start it anew."""
    published = PublishedState(load(None, environ={}), rehearsal=None)
    published.service = published.service.update(state="ready", ready_at=1.0, state_since=1.0)
    before = time.time()
    (replica,) = published.replicas
    replica.set_state("restarting", "rank 3 died")
    since = query(published.service).since
    assert before <= since <= time.time()
    replica.set_state("restarting", "waiting")
    assert query(published.service).since == since


def test_a_service_is_in_the_state_of_its_best_replica(tmp_path: Path) -> None:
    """It serves while one of its replicas does; the note says what the others are at."""
    launch = load(None, sets=("cluster.nodes=2", "cluster.replicas=2", "model.path=/nowhere/model"), environ={})
    published = PublishedState(launch, rehearsal=None)
    first, second = published.replicas
    first.set_state("ready")
    assert (published.service.state, published.service.note) == ("ready", "replica 1 is starting")
    second.set_state("ready")
    first.set_state("restarting", "rank 0 died")
    assert (published.service.state, published.service.note) == ("ready", "replica 0 is restarting: rank 0 died")
    assert [replica.state for replica in published.service.replicas] == ["restarting", "ready"]
    assert 'raylaunch_replica_up{replica="0"} 0.0' in published.metrics.to_text()
    second.set_state("restarting", "node gone")
    assert published.service.state == "restarting"
    assert published.make_notice().text.endswith("replica 1 is restarting: node gone")


def test_status_of_a_service_that_does_not_answer() -> None:
    status = query(make_service().update(state="ready", ready_at=2.0))
    assert (status.ready, status.nodes, status.kv_cache_tokens, status.startup) == (False, (), 1024, TIMES)
    assert status.to_lines()[0].startswith("a/b at http://127.0.0.1:1/v1: not answering for ")
