"""Messages between a parent and a real child process."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from raylaunch.base.errors import LaunchFileError, RaylaunchError
from raylaunch.base.ipc import ChildLink, Failed
from raylaunch.base.message_pipe import wait_for_any
from raylaunch.base.processes import wait_until
from raylaunch.weights.hub_errors import HubRefusedError
from tests.base.echo_child import Echo, Other, Sleep

_DEADLINE_S = 30.0


@pytest.fixture
def child(tmp_path: Path) -> Iterator[ChildLink]:
    with (tmp_path / "log").open("wb") as log:
        link = ChildLink.launch(
            "tests.base.run_echo_child", arguments=[str(tmp_path / "ended")], environment=os.environ, output=log
        )
    yield link
    link.request_end()
    link.wait_end(5.0)


def test_messages_come_back_in_order(child: ChildLink) -> None:
    """Those that come before the awaited one are kept."""
    assert child.send(Other(1))
    assert child.send(Echo(b"a"))
    assert wait_until(lambda: bool(child.receive() or child.last(Other)), _DEADLINE_S)
    assert child.last(Echo) == Echo(b"a")
    assert child.last(Other) == Other(1)
    assert child.find_sent_at(Other) >= child.started_at
    child.forget(Other)
    assert child.last(Other) is None


def test_messages_larger_than_the_pipe_arrive(child: ChildLink) -> None:
    """A plan with its prompts has many megabytes; a small one behind it waits for its turn."""
    body = os.urandom(8 << 20)
    assert child.send(Echo(body))
    assert child.unsent
    assert not child.send(Other(1)), "the pipe is full"
    while child.last(Echo) is None:
        assert wait_for_any([child], _DEADLINE_S) == [child]
        child.receive()
    assert child.last(Echo) == Echo(body)


def test_a_child_that_does_not_read_blocks_nobody(child: ChildLink) -> None:
    assert child.send(Echo(b""))
    assert child.send(Sleep(600.0))
    sent = 0
    while child.send(Echo(bytes(1 << 12))):
        sent += 1
    assert 0 < sent < 1000


def test_death_is_seen_on_both_sides(child: ChildLink, tmp_path: Path) -> None:
    assert child.send(Echo(b""))
    assert wait_until(lambda: bool(child.receive()), _DEADLINE_S)
    os.close(child.writing)
    child.writing = -1
    assert wait_until((tmp_path / "ended").exists, _DEADLINE_S)
    assert wait_until(lambda: not child.is_alive(), _DEADLINE_S)
    child.receive()
    assert child.is_closed
    assert not child.send(Other(1))
    assert child.describe_end() == "with exit status 0"


@pytest.mark.parametrize(
    "error",
    [
        LaunchFileError("a.yaml cannot be launched", fix="correct it", problems=["line 1: no"]),
        HubRefusedError("refused", fix="log in", excerpt=["403"]),
    ],
)
def test_an_error_is_the_same_in_the_parent(child: ChildLink, error: RaylaunchError) -> None:
    """With all that it says."""
    assert child.send(Echo(b""))
    assert child.send(Failed(error))
    assert wait_until(lambda: bool(child.receive()) and child.last(Failed) is not None, _DEADLINE_S)
    failed = child.last(Failed)
    assert failed is not None
    assert type(failed.error) is type(error)
    assert vars(failed.error) == vars(error)
