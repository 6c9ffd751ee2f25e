"""Who accepts on the socket that several replicas share."""

import http.client
import threading
from pathlib import Path

from raylaunch.base.ports import find_free_ports
from raylaunch.engine.rehearsal.plan import ResolvedLaunch
from raylaunch.serve.front import Front
from tests.config import launches


def ask(port: int, answers: list[int]) -> threading.Thread:
    """Ask on a new connection, in a thread: it waits in the kernel's queue while nothing accepts."""

    def run() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", "/health")
        answers.append(connection.getresponse().status)
        connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_the_listener_accepts_while_no_replica_does(tmp_path: Path) -> None:
    """One of two leaves: the other one accepts. Both left: the listener answers, what waited in the queue too."""
    (port,) = find_free_ports(1)
    sets = (f"server.port={port}", "server.host=127.0.0.1", "engine.pipeline_parallel_size=2", "cluster.replicas=2")
    front = Front(ResolvedLaunch(launches.load(launches.write(tmp_path), *sets)))
    answers: list[int] = []
    try:
        ask(port, answers).join()
        assert answers == [503]
        front.enter(0)
        front.enter(1)
        assert front.has_others(0)
        front.leave(0)
        assert (front.has_others(0), front.has_others(1)) == (True, False)
        waiting = ask(port, answers)
        waiting.join(0.3)
        assert answers == [503]
        front.leave(1)
        waiting.join()
        assert answers == [503, 503]
        front.enter(0)
        front.stop()
        front.enter(1)  # too late: the service stops
        ask(port, answers).join()
        assert answers == [503] * 3
    finally:
        front.close()
    assert not any(front.published.service.folder.glob("service.json"))
