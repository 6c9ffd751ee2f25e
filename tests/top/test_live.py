"""A view whose Ray goes away and comes back: real Ray, of the test's own."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from raylaunch.base.processes import wait_until
from raylaunch.cluster.private import PrivateRay
from raylaunch.top.live import ViewReader
from raylaunch.top.view import View
from tests.e2e.harness import RAYLAUNCH

pytestmark = pytest.mark.ray
DEADLINE_S = 120.0


def look_until(reader: ViewReader, condition: Callable[[View], bool]) -> View:
    deadline = time.monotonic() + DEADLINE_S
    while not condition(view := reader.read()):
        assert time.monotonic() < deadline, view
    return view


@pytest.mark.timeout(600)
def test_the_view_outlives_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples of a cluster; when it is gone the view says why there are none; another one is looked at as it comes."""
    first = PrivateRay.start(nodes=1, gpus_per_node=1, env_vars={})
    monkeypatch.setenv("RAY_ADDRESS", first.address)
    reader = ViewReader(None)
    try:
        view = look_until(reader, lambda view: bool(view.nodes))
        assert view.note == f"nothing serves on this machine; Ray at {first.address}"
        first.stop()
        look_until(reader, lambda view: view.note.startswith(("the last sample is ", "nodes are not sampled: ")))
        second = PrivateRay.start(nodes=1, gpus_per_node=1, env_vars={})
        try:
            monkeypatch.setenv("RAY_ADDRESS", second.address)
            view = look_until(reader, lambda view: second.address in view.note)
            assert view.nodes
        finally:
            second.stop()
    finally:
        reader.close()
        first.stop()


@pytest.mark.timeout(600)
def test_an_address_that_nobody_answers_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """RAY_ADDRESS points at nothing: the reason, and what to do."""
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    reader = ViewReader(None)
    try:
        view = look_until(reader, lambda view: bool(view.note))
        assert "Ray at 127.0.0.1:9: nothing accepts connections there" in view.note
    finally:
        reader.close()


def test_ctrl_c_ends_a_view_that_is_written_to_a_file(tmp_path: Path) -> None:
    """Where stdout is no terminal, views are written one below the other; Ctrl-C ends it with 0 all the same."""
    output = tmp_path / "top.txt"
    with output.open("w") as stream:
        looking = subprocess.Popen([RAYLAUNCH, "top"], stdout=stream, env=os.environ | {"RAY_ADDRESS": ""})
    assert wait_until(lambda: output.read_text().count(" CPU ") >= 2, DEADLINE_S)
    looking.send_signal(signal.SIGINT)
    assert looking.wait(DEADLINE_S) == 0
