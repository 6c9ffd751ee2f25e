"""Two nodes that share their storage, and what `serve` offers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import Hub

from raylaunch.checks.findings import Finding
from raylaunch.config import load
from raylaunch.private_ray import PrivateRay
from raylaunch.weights.offer import offer_pull

from .conftest import REPO, wanted_of


@pytest.mark.ray
def test_shared_storage_is_filled_once(model_hub: Hub, tmp_path: Path) -> None:
    """Two raylets on one file system, as over NFS: one writes, the other only looks."""
    model = tmp_path / "model"
    launch = tmp_path / "launch.yaml"
    launch.write_text(f"model: {{repo: {REPO}, path: {model}}}\ncluster: {{nodes: 2, gpus_per_node: 1}}\n")
    cluster = PrivateRay.start(nodes=2, gpus_per_node=1, env_vars={})
    try:
        done = subprocess.run(
            [sys.executable, "-m", "raylaunch.cli", "weights", "pull", str(launch), "--json"],
            env=os.environ | {"RAY_ADDRESS": cluster.address}, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
    finally:
        cluster.stop()
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["from_peers_bytes"] == 0
    assert set(result["shared"].items()) == {(result["nodes"][1], result["nodes"][0])}
    assert {path.name: path.read_bytes() for path in model.glob("[!.]*")} == wanted_of(model_hub)
    assert model_hub.count_sent() == sum(len(body) for body in wanted_of(model_hub).values())


def test_nobody_is_asked_without_a_terminal() -> None:
    """The findings name the command instead."""
    found = Finding("10.0.0.2", "model folder /data/x is not there", "raylaunch weights pull LAUNCH.yaml")
    assert not offer_pull(load(None, environ={}), [found])
    assert not offer_pull(load(None, environ={}), [])
