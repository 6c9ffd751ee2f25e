"""What an upgrade writes down on the laptop; tests/rig/test_upgrade.py makes whole ones."""

from pathlib import Path

import pytest

from raylaunch.cli import main
from raylaunch.config import cluster_file, launch_file
from raylaunch.provision.template import ClusterPlan, write
from raylaunch.upgrade.on_cluster import OnCluster
from raylaunch.upgrade.place import Served


def test_the_image_that_stays_is_in_the_cluster_file(tmp_path: Path) -> None:
    launch = tmp_path / "launch.yaml"
    launch.write_text("model: {repo: a/b}\n")
    cluster = write(ClusterPlan(hosts=["10.0.0.1"], user="u", name="c", image="old:1"), tmp_path / "c.yaml")
    said: list[str] = []
    place = OnCluster(cluster, "old:1", 8080, 0, False, None, said.append, 60.0)
    config = launch_file.load(launch, environ={})
    place.settle(Served(config, "old:1"))
    assert said == []
    place.settle(Served(config, "new:2"))
    assert cluster_file.load(cluster.path).image == "new:2"
    assert said == [f"{cluster.shown_path}: docker.image is new:2 now"]


def test_an_image_needs_a_cluster(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    launch = tmp_path / "launch.yaml"
    launch.write_text("model: {repo: a/b}\n")
    with pytest.raises(SystemExit) as ended:
        main.main(["upgrade", str(launch), "--to", "vllm/vllm-openai:v9"])
    assert ended.value.code == 2
    assert "add --cluster CLUSTER.yaml" in capsys.readouterr().err
