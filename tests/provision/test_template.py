"""The cluster file that `init` writes: Ray's schema takes it, two-node.yaml is one, and only its top differs."""

import difflib
import shlex
from pathlib import Path

import pytest
import yaml

from raylaunch.cli import main
from raylaunch.cluster.settings import NODE
from raylaunch.config import cluster_file, cluster_ports
from raylaunch.provision.container import name_volumes
from raylaunch.provision.template import KIT_MOUNT, LAYER_IMAGE, TOKEN_MOUNT, ClusterPlan, render

ROOT = Path(__file__).resolve().parents[2]
TWO_NODE = ROOT / "configs" / "two-node.yaml"


def make_plan(count: int = 2, **values: str) -> ClusterPlan:
    hosts = [f"10.0.0.{number}" for number in range(1, count + 1)]
    return ClusterPlan(hosts=hosts, **{"user": "ubuntu", "name": "two-node"} | values)


def test_two_node_yaml_is_what_init_writes() -> None:
    """`raylaunch init configs/two-node.yaml --hosts 10.0.0.1,10.0.0.2 --user ubuntu --name two-node --force`."""
    assert TWO_NODE.read_text() == render(make_plan(), "configs/two-node.yaml")


@pytest.mark.parametrize("count", [1, 2, 4, 32])
def test_rays_own_schema_takes_it(count: int) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load(render(make_plan(count), "cluster.yaml"))
    validate_config(prepare_config(config))
    assert len(config["provider"]["worker_ips"]) == count - 1


def test_only_the_top_is_edited() -> None:
    """Other addresses, user and key: lines of `provider` and `auth`, and no others."""
    other = ClusterPlan(hosts=("192.168.1.5", "192.168.1.6"), user="root", key="~/.ssh/other", name="two-node")
    lines = [render(plan, "cluster.yaml").splitlines() for plan in (make_plan(), other)]
    changed = [line[2:].split(":")[0].strip() for line in difflib.ndiff(*lines) if line.startswith("+ ")]
    assert changed == ["head_ip", "worker_ips", "ssh_user", "ssh_private_key"]


def test_it_says_what_a_cluster_needs() -> None:
    """All that a hand-written docker run carried, fixed ports, the token; nothing that one host sets for all."""
    text = TWO_NODE.read_text()
    cluster = cluster_file.load(TWO_NODE)
    assert cluster.image == LAYER_IMAGE
    assert "latest" not in text
    assert (cluster.find_option("--shm-size"), cluster.find_option("--gpus")) == ("10.24g", "all")
    assert "-v /data:/data" in cluster.run_options
    assert [(volume.source, volume.target) for volume in cluster.options_of(cluster.head_ip).list_volumes()][1:] == [
        ("raylaunch-two-node-home", "/root/.raylaunch"),
        ("raylaunch-two-node-ray", "/tmp/ray"),
    ]
    assert name_volumes(cluster) == ("raylaunch-two-node-home", "raylaunch-two-node-ray")
    assert cluster.find_variable("RAY_AUTH_MODE") == "token"
    assert {name: cluster.find_variable(name) for name in NODE} == dict(NODE)
    for port in (*cluster_ports.HEAD, *cluster_ports.EVERY_NODE, cluster_ports.MIN_WORKER, cluster_ports.MAX_WORKER):
        assert f"={port}" in text
    for name in ("VLLM_HOST_IP", "NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"):
        value = cluster.find_variable(name)
        assert value is not None
        assert value.startswith(f"${{{name}:-$(")
    assert {TOKEN_MOUNT, KIT_MOUNT} == {*cluster.file_mounts}


@pytest.mark.parametrize("folder", ["/mnt/big disk", "/mnt/模型", "/mnt/it's #1"])
def test_any_folder_of_models_is_mounted(tmp_path: Path, folder: str) -> None:
    """As the shell of a host reads the option, and as raylaunch does."""
    path = tmp_path / "cluster.yaml"
    path.write_text(render(make_plan(data=folder), str(path)))
    cluster = cluster_file.load(path)
    assert cluster.model_folder == folder
    mount, _ = [option for option in cluster.run_options if option.startswith("-v ")]
    assert shlex.split(mount) == ["-v", f"{folder}:{folder}"]


def test_a_ready_image_is_not_built() -> None:
    text = render(make_plan(image="registry.example/raylaunch:1"), "cluster.yaml")
    config = yaml.safe_load(text)
    assert config["docker"]["image"] == "registry.example/raylaunch:1"
    assert "initialization_commands" not in config
    assert [*config["file_mounts"]] == [TOKEN_MOUNT]


def test_init_writes_file_token_and_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file as asked, the token for its owner alone; neither is written over."""
    monkeypatch.setenv("RAYLAUNCH_HOME", str(tmp_path / "state"))
    file = tmp_path / "mine.yaml"
    arguments = ["init", str(file), "--hosts", "10.0.0.1, 10.0.0.2,10.0.0.3", "--user", "root", "--name", "three"]

    def run(*words: str) -> int:
        with pytest.raises(SystemExit) as ended:
            main.main([*words])
        return int(ended.value.code or 0)

    assert run(*arguments) == 0
    assert cluster_file.load(file).hosts == ("10.0.0.1", "10.0.0.2", "10.0.0.3")
    token = tmp_path / "state/clusters/three/token/auth_token"
    assert token.stat().st_mode & 0o777 == 0o600
    before = token.read_text()
    assert run(*arguments) == 2
    assert run("init", str(file)) == 0
    assert run("init", str(tmp_path / "two hosts.yaml"), "--hosts", "10.0.0.9", "--user", "root") == 0
    assert cluster_file.load(tmp_path / "two hosts.yaml").cluster_name == "two-hosts"
    assert token.read_text() == before
    assert {path.suffix for path in (token.parents[1] / "image").iterdir()} == {"", ".whl"}


@pytest.mark.parametrize(
    ("hosts", "said"),
    [
        ("10.0.0.1:2222", "10.0.0.1:2222: an address without a port; ports go into ~/.ssh/config"),
        ("mia@10.0.0.1", "mia@10.0.0.1: an address without a user; --user names it for all hosts"),
        ("10.0.0.1 10.0.0.2", "a space; separate addresses by commas: --hosts 10.0.0.1,10.0.0.2"),
        ("127.0.0.1", "127.0.0.1 is a different machine on every host"),
        ("10.0.0.1,10.0.0.1", "10.0.0.1 is listed twice"),
        ("10.0.0.1,10.0.0.2/24", "is not an address"),
        (" , ", "--hosts is not a list of addresses"),
    ],
)
def test_wrong_hosts_write_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str], hosts: str, said: str) -> None:
    """So the corrected command is not refused."""
    file = tmp_path / "cluster.yaml"
    with pytest.raises(SystemExit) as ended:
        main.main(["init", str(file), "--hosts", hosts, "--user", "root"])
    assert ended.value.code == 1
    assert said in capsys.readouterr().err
    assert not file.exists()


def test_init_ends_with_the_next_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A key that does not exist yet is a warning."""
    file = tmp_path / "my cluster.yaml"
    with pytest.raises(SystemExit):
        main.main(["init", str(file), "--hosts", "10.0.0.1", "--user", "root", "--key", str(tmp_path / "none")])
    printed = capsys.readouterr().err
    assert f"warning: {tmp_path / 'none'} does not exist yet" in printed
    assert printed.endswith(f"next: raylaunch doctor '{file}'\n")
