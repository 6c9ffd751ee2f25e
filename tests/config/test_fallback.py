"""The `fallback:` block: each of its layouts is a complete launch that was checked."""

from pathlib import Path

import pytest

from raylaunch.config import launch_file
from tests.config.launches import BASE, REFERENCE, load, problems_of, write

FALLBACK = """\
fallback:
  layouts:
    - cluster: {nodes: 1}
      engine: {tensor_parallel_size: 8, pipeline_parallel_size: 1, max_model_len: 8192}
"""
ONE_BOX = "[{cluster: {nodes: 1}, engine: {tensor_parallel_size: 8, pipeline_parallel_size: 1}}]"


def test_a_layout_is_the_launch_with_other_values(tmp_path: Path) -> None:
    """Model, names, address and keys stay; it has no fallback of its own, and no lock."""
    launch = load(write(tmp_path, BASE + FALLBACK), "keep.locked=true", "fallback.return=never")
    (other,) = launch_file.list_fallbacks(launch)
    assert (other.cluster.nodes, other.world_size, other.max_model_len) == (1, 8, 8192)
    assert (other.served_model_names, other.server, other.model) == (
        launch.served_model_names,
        launch.server,
        launch.model,
    )
    assert (other.fallback.layouts, other.keep.locked) == ((), False)
    assert (launch.fallback.after_s, launch.fallback.return_) == (300.0, "never")
    assert type(launch).from_json(launch.to_json()) == launch
    assert launch_file.list_fallbacks(load(write(tmp_path))) == ()


def test_the_example_of_the_reference_case(tmp_path: Path) -> None:
    """The commented block of configs/deepseek-r1-70b.yaml is valid as it stands."""
    text = REFERENCE.read_text()
    block = text[text.index("# fallback:") :].replace("\n# ", "\n").removeprefix("# ")
    (other,) = launch_file.list_fallbacks(load(write(tmp_path, f"{text}\n{block}")))
    assert (other.cluster.nodes, other.tensor_parallel_size, other.max_model_len) == (1, 8, 8192)


@pytest.mark.parametrize(
    ("sets", "expected"),
    [
        (("[{cluster: {nodes: 1}}]",), "TP=4 x PP=4 needs 16 GPUs, but cluster has 1 node(s) x 8"),
        (("[{engine: {max_model_len: 8192}}]",), "needs 2 node(s) x 8 GPU(s), no less than the launch itself (2 x 8)"),
        (("[{cluster: {nodes: 1}, engine: {served_model_name: x}}]",), "a fallback keeps the model's names"),
        ((ONE_BOX, "cluster.nodes=4", "cluster.replicas=2"), "this launch has 2 replicas: while nodes are away"),
        (("[{cluster: {node: 1}}]",), "fallback.layouts.0.cluster.node: unknown key; nearest is nodes"),
        (("[{engine: {max_model_length: 1}}]",), "fallback.layouts.0.engine.max_model_length: unknown key; nearest is"),
        (("[{engine: {max_model_len: 8k}}]",), "fallback.layouts.0.engine.max_model_len: expected an integer"),
        ((ONE_BOX, "fallback.return=later"), '"later" is not a choice'),
    ],
)  # fmt: skip
def test_layouts_that_are_refused(tmp_path: Path, sets: tuple[str, ...], expected: str) -> None:
    layouts, *others = sets
    problems = problems_of(write(tmp_path), f"fallback.layouts={layouts}", *others)
    assert any(expected in problem for problem in problems), problems
    assert all("fallback" in problem for problem in problems)
