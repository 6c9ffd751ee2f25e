"""A view whose Ray goes away and comes back: real Ray, of the test's own."""

import time
from collections.abc import Callable

import pytest

from raylaunch.private_ray import PrivateRay
from raylaunch.top.live import Looker
from raylaunch.top.view import View

pytestmark = pytest.mark.ray
DEADLINE_S = 120.0


def look_until(looker: Looker, condition: Callable[[View], bool]) -> View:
    deadline = time.monotonic() + DEADLINE_S
    while not condition(view := looker.look()):
        assert time.monotonic() < deadline, view
    return view


@pytest.mark.timeout(600)
def test_the_view_outlives_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples of a cluster; when it is gone the view says why there are none; another one is looked at as it comes."""
    first = PrivateRay.start(nodes=1, gpus_per_node=1, env_vars={})
    monkeypatch.setenv("RAY_ADDRESS", first.address)
    looker = Looker(None)
    try:
        view = look_until(looker, lambda view: bool(view.nodes))
        assert view.note == f"nothing serves on this machine; Ray at {first.address}"
        first.stop()
        look_until(looker, lambda view: view.note.startswith(("the last sample is ", "nodes are not sampled: ")))
        second = PrivateRay.start(nodes=1, gpus_per_node=1, env_vars={})
        try:
            monkeypatch.setenv("RAY_ADDRESS", second.address)
            view = look_until(looker, lambda view: second.address in view.note)
            assert view.nodes
        finally:
            second.stop()
    finally:
        looker.close()
        first.stop()


@pytest.mark.timeout(600)
def test_an_address_that_nobody_answers_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """RAY_ADDRESS points at nothing: the reason, and what to do."""
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    looker = Looker(None)
    try:
        view = look_until(looker, lambda view: bool(view.note))
        assert "Ray at 127.0.0.1:9: nothing accepts connections there" in view.note
    finally:
        looker.close()
