"""What is left of a private Ray whose GCS was killed: its agents outlive raylet and leader, under titles of theirs."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from raylaunch.base.processes import ProcessId, kill_led, list_marked, wait_until
from raylaunch.cluster.private import PrivateRay
from raylaunch.serve.service_record import Service, end_leftovers

pytestmark = pytest.mark.ray
PORT, SUPERVISOR = 8080, 4194305
"""The pid is above the highest that Linux gives out."""
MARK = f"{PORT}-{SUPERVISOR}-1"
COPIES = tuple(f"RAYLAUNCH_MARK_{number}" for number in range(32))
"""Which of its variables a title hides is chance: of so many it hides one."""
_UP_S, _END_S = 60, 10


@pytest.fixture
def headless() -> Iterator[PrivateRay]:
    """Two nodes whose GCS was killed -9 once their agents were up; the head's leader has ended over it."""
    env_vars = {"RAYLAUNCH_MARK": MARK, **dict.fromkeys(COPIES, MARK)}
    private = PrivateRay.start(nodes=2, gpus_per_node=1, env_vars=env_vars)
    try:
        for node in private.nodes:
            assert wait_until(lambda: len(list_led(node.identity, "ray::")) == 2, _UP_S)  # noqa: B023
        (gcs,) = list_led(private.nodes[0].identity, "gcs/gcs_server")
        os.kill(gcs.pid, signal.SIGKILL)
        assert wait_until(lambda: not private.nodes[0].identity.is_alive(), _END_S)
        yield private
    finally:
        private.stop()


def list_led(leader: ProcessId, title: str = "") -> list[ProcessId]:
    """Living processes of a leader's session, whatever their environment shows."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (identity := ProcessId.of(int(entry.name))) is not None:
            try:
                is_led = os.getsid(identity.pid) == leader.pid and title in (entry / "cmdline").read_text()
            except OSError:  # gone meanwhile
                continue
            found += [identity] if is_led else []
    return found


def test_agents_that_outlive_raylet_and_leader_are_found_and_ended(headless: PrivateRay) -> None:
    """By the supervisor, node by node, and by a new `serve` that finds only the mark of the engine after theirs."""
    first, second = (node.identity for node in headless.nodes)
    agents = {leader: {agent.pid for agent in list_led(leader, "ray::")} for leader in (first, second)}
    assert [len(pids) for pids in agents.values()] == [2, 2]
    hidden = {name for name in COPIES if not agents[first] | agents[second] <= set(list_marked(name, MARK))}
    assert hidden == set()

    kill_led((first,), f"{PORT}-{SUPERVISOR}-2")
    assert len(list_led(first)) == 2  # another's mark
    kill_led((first,), MARK)
    assert wait_until(lambda: list_led(first) == [], _END_S)

    (raylet,) = list_led(second, "raylet/raylet")
    for pid in (second.pid, raylet.pid):
        os.kill(pid, signal.SIGKILL)
    assert wait_until(lambda: not second.is_alive() and not raylet.is_alive(), _END_S)
    service = Service(
        PORT, "127.0.0.1", ("a/b",), "f", ProcessId(SUPERVISOR, 1), 1.0, mark=f"{PORT}-{SUPERVISOR}-2",
        group_leaders=(first, second), private_ray_folders=(str(headless.folder),),
    )  # fmt: skip
    assert agents[second] <= set(end_leftovers(service))
    assert wait_until(lambda: list_led(second) == [], _END_S)
    assert not headless.folder.exists()
