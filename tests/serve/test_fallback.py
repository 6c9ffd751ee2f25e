"""Which layout is served while nodes are away, by a clock that is given in."""

from pathlib import Path

import pytest

from raylaunch.cluster.ray_session import ClusterNode, GpuWait
from raylaunch.config import launch_file
from raylaunch.engine.rehearsal.plan import ResolvedLaunch
from raylaunch.serve.fallback import Layouts, ReturnRequest
from tests.config import launches

CONTENT = """\
model: {repo: owner/name, path: /nowhere/model}
cluster: {nodes: 3, gpus_per_node: 8}
engine: {tensor_parallel_size: 8, pipeline_parallel_size: 3}
fallback:
  after_s: 100
  layouts:
    - cluster: {nodes: 2}
      engine: {pipeline_parallel_size: 2}
    - cluster: {nodes: 1}
      engine: {pipeline_parallel_size: 1, max_model_len: 8192}
    - cluster: {nodes: 1, gpus_per_node: 4}
      engine: {tensor_parallel_size: 4, pipeline_parallel_size: 1, max_model_len: 2048}
"""


def make_layouts(folder: Path, *sets: str) -> Layouts:
    launch = launches.load(launches.write(folder, CONTENT), *sets)
    others = tuple(ResolvedLaunch(other) for other in launch_file.list_fallbacks(launch))
    return Layouts(ResolvedLaunch(launch, fallbacks=others))


def there(layouts: Layouts, *gpus: int) -> GpuWait:
    """What a driver process counts while the current layout waits."""
    block = layouts.current.launch.cluster
    found = tuple(ClusterNode(str(n), f"10.0.0.{n}", "", count, is_head=not n) for n, count in enumerate(gpus))
    return GpuWait(found, block.nodes, block.gpus_per_node, left_s=1.0)


def switch(layouts: Layouts, now: float, *gpus: int) -> int:
    """Take the next layout, if it is time; its number."""
    following = layouts.find_next(there(layouts, *gpus), now)
    assert following is not None
    layouts.take(following)
    return layouts.number


def test_the_first_layout_that_fits_after_the_limit(tmp_path: Path) -> None:
    """Not before `after_s`, counted from the first look at which nodes were missing; back nodes start it anew."""
    layouts = make_layouts(tmp_path)
    assert layouts.find_next(None, 0.0) is None
    assert layouts.find_next(there(layouts, 8), 10.0) is None
    assert layouts.find_next(there(layouts, 8, 8, 8), 50.0) is None
    assert layouts.find_next(there(layouts, 8), 60.0) is None
    assert layouts.find_next(there(layouts, 8), 159.9) is None
    assert layouts.describe() == ""
    assert switch(layouts, 160.0, 8) == 2
    assert layouts.current.own is layouts.own
    assert layouts.describe() == (
        "1 of 3 nodes with 8 GPU(s) are there: fallback layout 2 of 3 (1 node(s) x 8 GPU(s), TP=8 x PP=1, "
        "max_model_len 8192)"
    )
    assert switch(make_ready(make_layouts(tmp_path)), 300.0, 8, 8) == 1


def make_ready(layouts: Layouts, since: float = 200.0) -> Layouts:
    """Nodes have been missing for `after_s` at 300 s."""
    layouts.note_ready()
    assert layouts.find_next(there(layouts), since) is None
    return layouts


def test_more_nodes_are_lost(tmp_path: Path) -> None:
    """A fallback that serves loses its nodes: after `after_s` the next one that fits."""
    layouts = make_ready(make_layouts(tmp_path))
    assert switch(layouts, 300.0, 8, 8) == 1
    layouts.note_ready()
    assert layouts.find_next(there(layouts, 8), 400.0) is None
    assert switch(layouts, 500.0, 4) == 3


def test_a_fallback_that_does_not_come_up_is_left_out(tmp_path: Path) -> None:
    """The next one follows at once; after the last the service waits for nodes, and begins another round later."""
    layouts = make_ready(make_layouts(tmp_path))
    for number in (2, 3):
        assert switch(layouts, 300.0 + number, 8) == number
        layouts.take(layouts.note_failed_start())
        assert layouts.number == 0
    assert layouts.find_next(there(layouts, 8), 310.0) is None
    assert layouts.find_next(there(layouts, 8), 330.0) is None
    layouts.note_ready()
    assert layouts.find_next(there(layouts, 8), 340.0) is None
    assert switch(layouts, 440.0, 8) == 2


@pytest.mark.parametrize(("when", "running", "due"), [
    ("quiet", 1, True), ("quiet", 2, False), ("now", 500, True), ("never", 0, False),
])  # fmt: skip
def test_back_once_the_nodes_are_steady(tmp_path: Path, when: str, running: int, due: bool) -> None:
    """Nodes there and traffic low for `steady_s` without a gap."""
    layouts = make_ready(make_layouts(tmp_path, f"fallback.return={when}"))
    assert not layouts.is_due_back((8, 8, 8), 0, 200.0)
    switch(layouts, 300.0, 8)
    layouts.note_ready()
    for now, gpus in ((400.0, (8, 8)), (410.0, (8, 8, 8)), (500.0, (8, 8)), (510.0, (8, 8, 8)), (629.0, (8, 8, 8))):
        assert not layouts.is_due_back(gpus, running, now)
    assert layouts.is_due_back((8, 8, 8), running, 630.0) is due
    assert ("raylaunch restart" in layouts.describe()) is (when == "never")


def test_a_return_that_fails_is_tried_later(tmp_path: Path) -> None:
    """Each failure doubles the wait; a node that is lost meanwhile is waited for 30 s, not `after_s`."""
    layouts = make_ready(make_layouts(tmp_path))
    switch(layouts, 300.0, 8)
    fallback = layouts.current
    layouts.note_ready()
    assert not layouts.is_due_back((8, 8, 8), 0, 400.0)
    assert layouts.is_due_back((8, 8, 8), 0, 520.0)
    layouts.take(layouts.own)
    assert layouts.find_next(there(layouts, 8), 530.0) is None
    assert layouts.find_next(there(layouts, 8), 560.0) is fallback
    ReturnRequest(layouts).refuse("node 10.0.0.2 is gone", "")
    layouts.take(fallback)
    layouts.note_ready()
    assert layouts.describe().endswith("; the last return failed: node 10.0.0.2 is gone")
    assert not layouts.is_due_back((8, 8, 8), 0, 600.0)
    assert not layouts.is_due_back((8, 8, 8), 0, 839.0)
    assert layouts.is_due_back((8, 8, 8), 0, 840.0)
    layouts.take(layouts.own)
    layouts.note_ready()
    assert layouts.describe() == ""


def test_without_fallbacks_nodes_are_waited_for(tmp_path: Path) -> None:
    layouts = make_layouts(tmp_path, "fallback.layouts=[]")
    assert layouts.find_next(there(layouts, 8), 0.0) is None
    assert layouts.find_next(there(layouts, 8), 1e6) is None
    assert layouts.describe_plan() == ""
