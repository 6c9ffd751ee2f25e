"""The record of a service: written and read back, and what `status` makes of it."""

import json
import os
from dataclasses import replace

from raylaunch.base.processes import ProcessId
from raylaunch.engine.messages import EngineReady
from raylaunch.serve.messages import PlacedRank
from raylaunch.serve.readiness import StartupTimes
from raylaunch.serve.service_record import Service, list_services
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


def test_status_of_a_service_that_does_not_answer() -> None:
    status = query(make_service().update(state="ready", ready_at=2.0))
    assert (status.ready, status.nodes, status.kv_cache_tokens, status.startup) == (False, (), 1024, TIMES)
    assert status.to_lines()[0].startswith("a/b at http://127.0.0.1:1/v1: not answering for ")
