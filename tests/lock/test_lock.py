"""Lock files: written, read again, compared; and `serve --locked`'s refusal."""

from dataclasses import replace
from pathlib import Path

import pytest

from raylaunch.base.errors import LaunchFileError
from raylaunch.config import launch_file
from raylaunch.config.layers import name_lock
from raylaunch.lock.collect import collect_lock, make_lock
from raylaunch.lock.lock_file import Lock, compare_locks, find_lock, read_lock, to_text, write_lock
from raylaunch.node.nvml import DriverFacts
from tests.preflight.conftest import make_facts, make_gpu


@pytest.fixture
def lock(tmp_path: Path) -> Lock:
    """Of a launch on two nodes with two GPUs each."""
    path = tmp_path / "launch.yaml"
    path.write_text("model: {path: /data/model}\nengine: {dtype: float16}\nserver: {api_key: sk-secret}\n")
    driver = DriverFacts(driver_version="580.95", cuda_version=(13, 0), gpus=(make_gpu(0), make_gpu(1)))
    facts = [replace(make_facts(number), driver=driver) for number in (1, 2)]
    environ = {"NCCL_P2P_DISABLE": "1", "VLLM_API_KEY": "sk-secret", "VLLM_HOST_IP": "10.0.0.1", "HOME": "/root"}
    return make_lock(launch_file.load(path, environ={}), facts, environ)


def test_what_is_locked(lock: Lock, tmp_path: Path) -> None:
    """Versions, drivers, GPUs, options and variables; no secret, nothing that differs from node to node."""
    assert lock.versions == {"vllm": "0.32.0", "ray": "2.60.0", "torch": "2.13.0+cu130", "python": "3.12.11"}
    assert lock.nodes["box2"].driver == "580.95"
    assert lock.nodes["box1"].gpus == ("NVIDIA GeForce RTX 4090",) * 2
    assert lock.environment == {"NCCL_P2P_DISABLE": "1", "VLLM_API_KEY": "********"}
    write_lock(tmp_path / "l.yaml", to_text(lock))
    text = (tmp_path / "l.yaml").read_text()
    assert "dtype: float16" in text
    assert "secret" not in text.replace("********", "")


def test_a_lock_read_again_is_equal(lock: Lock, tmp_path: Path) -> None:
    write_lock(tmp_path / "l.yaml", to_text(lock))
    assert compare_locks(read_lock(tmp_path / "l.yaml"), replace(lock, made_at="later")) == []


def test_each_difference_is_named(lock: Lock) -> None:
    """A version, a driver, an option, a variable that is gone, and a file of the model."""
    nodes = {**lock.nodes, "box2": replace(lock.nodes["box2"], driver="590.1")}
    launch = {**lock.launch, "engine": {**lock.launch["engine"], "dtype": "bfloat16"}}
    now = replace(
        lock, versions={**lock.versions, "vllm": "0.33.0"}, nodes=nodes, launch=launch, environment={},
        model={**lock.model, "files_sha256": "other"},
    )  # fmt: skip
    found = {difference.key: difference.describe() for difference in compare_locks(lock, now)}
    assert found["versions.vllm"] == "versions.vllm: 0.32.0 in the lock, 0.33.0 now"
    assert found["nodes.box2.driver"].endswith("580.95 in the lock, 590.1 now")
    assert found["environment.NCCL_P2P_DISABLE"].endswith("1 in the lock, none now")
    assert {"launch.engine.dtype", "model.files_sha256", "environment.VLLM_API_KEY"} <= found.keys()
    assert len(found) == 6


def test_the_lock_before_is_kept(lock: Lock, tmp_path: Path) -> None:
    path = name_lock(tmp_path / "launch.yaml")
    write_lock(path, to_text(lock))
    write_lock(path, to_text(replace(lock, made_at="later")))
    assert read_lock(path.with_suffix(".1.yaml")).made_at == lock.made_at
    assert find_lock(tmp_path / "launch.yaml") == path


@pytest.mark.parametrize("text", ["", "a: [", "versions: {}", "- 1"])
def test_another_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "l.yaml").write_text(text)
    with pytest.raises(LaunchFileError, match="is not a lock file"):
        read_lock(tmp_path / "l.yaml")


def test_this_machine_without_ray(tmp_path: Path) -> None:
    """The demo's launch is locked without Ray: the packages here, and no GPU."""
    path = tmp_path / "launch.yaml"
    path.write_text("cluster: {local: true}\n")
    found = collect_lock(launch_file.load(path, environ={}))
    assert found.versions["ray"]
    assert all(node.gpus == () for node in found.nodes.values())
