"""What a launch requires, in the words of its reader."""

import pytest

from raylaunch.base.viewpoint import VARIABLE, Viewpoint
from raylaunch.config.launch_file import load
from raylaunch.preflight.requirements import make_request


def test_the_pull_is_typed_where_the_reader_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A launch that was sent to the head is pulled by its name on the laptop, not by that of the copy."""
    request = make_request(load(None, environ={}), logical_gpus=False)
    assert request.pull_command == "raylaunch weights pull"
    view = Viewpoint("cluster.yaml", "10.0.0.1", launch="/home/mia/launch.yaml")
    monkeypatch.setenv(VARIABLE, view.to_words()[1].partition("=")[2])
    request = make_request(load(None, environ={}), logical_gpus=False)
    assert request.pull_command == "raylaunch weights pull /home/mia/launch.yaml --cluster cluster.yaml"
