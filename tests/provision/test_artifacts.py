"""What this machine keeps of a cluster: whose its folder is, and where plain `ray` finds its state."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from raylaunch.base.errors import ClusterError
from raylaunch.config import cluster_file
from raylaunch.config.cluster_file import ClusterFile
from raylaunch.provision import artifacts, down, ray_state, template, up
from tests.provision.conftest import FakeSsh


def write(path: Path, *hosts: str, name: str = "one") -> ClusterFile:
    path.unlink(missing_ok=True)
    plan = template.ClusterPlan(hosts=hosts, user="mia", name=name)
    path.write_text(template.render(plan, str(path)))
    return cluster_file.load(path)


def test_two_clusters_of_one_name_do_not_share_a_folder(tmp_path: Path, fake_ssh: FakeSsh) -> None:
    """The second file is refused by init, up and down, before any host is contacted; the first one's key stays."""
    first = write(tmp_path / "a.yaml", "10.0.0.1", "10.0.0.2")
    artifacts.write_kit(first)
    key = artifacts.find_key(first, 8080)
    key.parent.mkdir()
    key.write_text("sk-1")
    second = write(tmp_path / "b.yaml", "10.0.0.3")
    with pytest.raises(ClusterError, match=r"another cluster of the name one: 10.0.0.1, 10.0.0.2 \(/.*a.yaml"):
        template.write(template.ClusterPlan(hosts=["10.0.0.3"], user="mia", name="one"), tmp_path / "c.yaml")
    assert not (tmp_path / "c.yaml").exists()
    for refused in (lambda: artifacts.write_kit(second), lambda: down.down(second), lambda: up.up(second, wait_s=1)):
        with pytest.raises(ClusterError, match="belongs to another cluster"):
            refused()
    assert key.read_text() == "sk-1"
    assert fake_ssh.calls == []


def test_edited_hosts_keep_their_folder(tmp_path: Path) -> None:
    """One that is added, or all of them while it is down; not all of them while the old ones are up."""
    path = tmp_path / "a.yaml"
    artifacts.claim(write(path, "10.0.0.1", "10.0.0.2"))
    artifacts.claim(write(path, "10.0.0.2", "10.0.0.3"))
    artifacts.claim(write(path, "10.0.0.8"), is_up=True)
    with pytest.raises(ClusterError, match=r"another cluster of the name one: 10\.0\.0\.8"):
        artifacts.claim(write(path, "10.0.0.9"))
    artifacts.release(write(path, "10.0.0.8"))
    artifacts.claim(write(tmp_path / "b.yaml", "10.0.0.9"))


PLAIN_RAY = """
import json, sys
from ray.autoscaler._private import commands
from ray.autoscaler._private.util import prepare_config
config = prepare_config(json.load(sys.stdin))
print(commands._get_running_head_node(config, "", None))
"""


@pytest.mark.parametrize("is_started_here", [True, False])
def test_plain_ray_finds_the_cluster(
    cluster: ClusterFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_started_here: bool
) -> None:
    """Ray's own code, without RAY_TMPDIR, in the state that its launcher kept in our folder; or of another laptop."""
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))  # in the place of /tmp
    own = artifacts.ray_folder_of(cluster) / "ray" / "cluster-test.state"
    if is_started_here:
        own.parent.mkdir(parents=True)
        tags = {"ray-node-type": "head", "ray-node-status": "up-to-date"}
        own.write_text(json.dumps({cluster.head_ip: {"tags": tags, "state": "running"}}))
    ray_state.publish(cluster)
    ray_state.publish(cluster)

    def ask_ray() -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-c", PLAIN_RAY], input=cluster.document, capture_output=True, text=True, check=False
        )

    found = ask_ray()
    assert found.stdout.split()[-1:] == [cluster.head_ip], found.stderr
    down.forget(cluster)
    assert not (tmp_path / "tmp" / "ray" / "cluster-test.state").is_symlink()
    assert "Head node of cluster (test) not found" in ask_ray().stderr


def test_where_ray_looks_may_be_another_users(
    cluster: ClusterFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Then the variable that plain `ray` needs is printed."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "file"))
    (tmp_path / "file").touch()
    ray_state.publish(cluster)
    assert f"Ray's own commands need RAY_TMPDIR={artifacts.ray_folder_of(cluster)}" in capsys.readouterr().err
    ray_state.withdraw(cluster)
