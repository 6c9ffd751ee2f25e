"""Fallback layouts are checked while all nodes are there: files on each, and the memory of the smallest."""

from dataclasses import replace
from pathlib import Path

import pytest

from raylaunch.base.errors import ChecksFailedError
from raylaunch.config import launch_file
from raylaunch.node.facts import NodeFacts
from raylaunch.node.nvml import DriverFacts
from raylaunch.preflight.requirements import make_request
from raylaunch.serve.fallback_checks import check_fallbacks
from tests.preflight.conftest import GIB, make_facts, make_gpu
from tests.serve.test_forecast import load

ONE_BOX = "[{cluster: {nodes: 1}, engine: {tensor_parallel_size: 8, pipeline_parallel_size: 1, max_model_len: 8192}}]"


def check(folder: Path, facts: list[NodeFacts], *sets: str) -> None:
    """Check the reference case's fallback; its launch is fit for these nodes."""
    launch = load(folder, None, f"fallback.layouts={ONE_BOX}", *sets)
    request = make_request(launch, logical_gpus=False)
    there = [replace(node, model=replace(node.model, path=request.model_folder)) for node in facts]
    check_fallbacks(launch_file.list_fallbacks(launch), (), there, request)


def test_the_reference_case_falls_back_to_one_box(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    check(tmp_path, [make_facts(1), make_facts(2)])
    assert "fallback layout 1:\n" in capfd.readouterr().err


def test_a_fallback_that_cannot_be_served_is_refused(tmp_path: Path) -> None:
    """Where the node with less memory could not carry it, unless it is forced; or a node lacks files."""
    small = DriverFacts("", "580.82.07", (13, 0), tuple(make_gpu(index, total_bytes=16 * GIB) for index in range(8)))
    facts = [make_facts(1), make_facts(2, driver=small)]
    with pytest.raises(ChecksFailedError, match=r"fallback layout 1: it cannot fit: .* exceed 16\.00 GiB x 0\.92"):
        check(tmp_path, facts)
    check(tmp_path, facts, "keep.force=true")
    empty = make_facts(2)
    with pytest.raises(ChecksFailedError, match=r"fallback layout 1: 1 check failed on 10\.0\.0\.2"):
        check(tmp_path, [make_facts(1), replace(empty, model=replace(empty.model, has_weights=False))])
