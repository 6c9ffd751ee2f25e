"""Two nodes that share their storage."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from raylaunch.cluster.private import PrivateRay
from tests.hub_server import Hub

from .conftest import REPO, wanted_of


@pytest.mark.ray
def test_shared_storage_is_filled_once(model_hub: Hub, tmp_path: Path) -> None:
    """Two raylets on one file system, as over NFS: one writes, the other only reads."""
    model = tmp_path / "model"
    launch = tmp_path / "launch.yaml"
    launch.write_text(f"model: {{repo: {REPO}, path: {model}}}\ncluster: {{nodes: 2, gpus_per_node: 1}}\n")
    cluster = PrivateRay.start(nodes=2, gpus_per_node=1, env_vars={})
    try:
        done = subprocess.run(
            [sys.executable, "-m", "raylaunch", "weights", "pull", str(launch), "--json"],
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
