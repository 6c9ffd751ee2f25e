"""Lock files: written, read again, compared; and `serve --locked`'s refusal."""

from dataclasses import replace
from pathlib import Path

import pytest

from raylaunch.base.errors import ChecksFailedError, LaunchFileError
from raylaunch.base.viewpoint import VARIABLE, Viewpoint
from raylaunch.config import launch_file
from raylaunch.config.launch import LaunchConfig
from raylaunch.config.layers import IMAGE_VARIABLE, name_lock
from raylaunch.lock.check import check_lock
from raylaunch.lock.collect import collect_lock, make_lock
from raylaunch.lock.lock_file import Lock, compare_locks, find_lock, read_lock, to_text, write_lock
from raylaunch.node.facts import NodeFacts
from raylaunch.node.nvml import DriverFacts
from tests.preflight.conftest import make_facts, make_gpu

ENVIRON = {"NCCL_P2P_DISABLE": "1", "VLLM_API_KEY": "sk-secret", "VLLM_HOST_IP": "10.0.0.1", "HOME": "/root"}


def make_node_facts(number: int, driver: str = "580.95") -> NodeFacts:
    """Of a node with two GPUs."""
    found = DriverFacts(driver_version=driver, cuda_version=(13, 0), gpus=(make_gpu(0), make_gpu(1)))
    return replace(make_facts(number), driver=found)


def load_launch(folder: Path, *, dtype: str = "float16", locked: bool = False) -> LaunchConfig:
    path = folder / "launch.yaml"
    path.write_text(f"model: {{path: /data/model}}\nengine: {{dtype: {dtype}}}\nserver: {{api_key: sk-secret}}\n")
    loaded = launch_file.load(path, environ={})
    return launch_file.with_values(loaded, {"keep.locked": locked}, why="--locked")


@pytest.fixture
def lock(tmp_path: Path) -> Lock:
    """Of a launch on two nodes with two GPUs each."""
    return make_lock(load_launch(tmp_path), [make_node_facts(1), make_node_facts(2)], ENVIRON)


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


DIFFERENCES = {
    "driver": "nodes.box2.driver: 580.95 in the lock, 590.1 now",
    "no driver": "nodes.box2.driver: 580.95 in the lock, none now; "
    "nodes.box2.gpus: NVIDIA GeForce RTX 4090, NVIDIA GeForce RTX 4090 in the lock, none now",
    "image": "image: vllm:1 sha256:aa in the lock, vllm:1 sha256:bb now",
    "model": "model.commit: 1234 in the lock, 5678 now",
    "option": "launch.engine.dtype: float16 in the lock, bfloat16 now",
    "variable": "environment.NCCL_P2P_DISABLE: 1 in the lock, none now",
    "nothing": "",
}


@pytest.mark.parametrize("kind", DIFFERENCES)
def test_locked_refuses_for_exactly_what_differs(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    """On a cluster's head, with the file and the command of the laptop; without --locked it is only printed."""
    viewpoint = Viewpoint("c.yaml", "10.0.0.1", 2, launch="my launch.yaml").to_words()[1].partition("=")[2]
    environ = ENVIRON | {VARIABLE: viewpoint, IMAGE_VARIABLE: "vllm:1 sha256:aa"}
    facts = [make_node_facts(1), make_node_facts(2)]
    facts = [replace(node, model=replace(node.model, commit="1234")) for node in facts]
    launch = load_launch(tmp_path, locked=True)
    write_lock(name_lock(tmp_path / "launch.yaml"), to_text(make_lock(launch, facts, environ)))
    match kind:
        case "driver":
            facts[1] = replace(facts[1], driver=make_node_facts(2, "590.1").driver)
        case "no driver":
            facts[1] = replace(facts[1], driver=None)
        case "image":
            environ[IMAGE_VARIABLE] = "vllm:1 sha256:bb"
        case "model":
            facts = [replace(node, model=replace(node.model, commit="5678")) for node in facts]
        case "option":
            launch = load_launch(tmp_path, dtype="bfloat16", locked=True)
        case "variable":
            del environ["NCCL_P2P_DISABLE"]
    if kind == "nothing":
        check_lock(launch, facts, environ)
        return
    with pytest.raises(ChecksFailedError) as refused:
        check_lock(launch, facts, environ)
    assert refused.value.what == f"--locked: not as in my launch.lock.yaml: {DIFFERENCES[kind]}"
    assert "`raylaunch lock 'my launch.yaml' --cluster c.yaml`" in refused.value.fix
    capsys.readouterr()
    check_lock(launch_file.with_values(launch, {"keep.locked": False}, why="test"), facts, environ)
    printed = " ".join(capsys.readouterr().err.split())
    assert all(f"differs from my launch.lock.yaml: {one}" in printed for one in DIFFERENCES[kind].split("; "))


def test_locked_needs_a_lock(tmp_path: Path) -> None:
    with pytest.raises(ChecksFailedError, match=r"there is no .*launch\.lock\.yaml"):
        check_lock(load_launch(tmp_path, locked=True), [make_node_facts(1)], {})


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
