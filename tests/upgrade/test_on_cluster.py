"""What an upgrade writes down on the laptop; tests/rig/test_upgrade.py makes whole ones."""

from pathlib import Path

import pytest

from raylaunch.cli import main, upgrade
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


def test_without_a_terminal_it_needs_yes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The differences are printed, nothing is changed; of equal launches it says that they are."""
    old, new = tmp_path / "old.yaml", tmp_path / "new.yaml"
    old.write_text("model: {repo: a/b}\n")
    new.write_text("model: {repo: a/b}\nengine: {max_num_seqs: 8}\n")
    cluster = write(ClusterPlan(hosts=["10.0.0.1"], user="u", name="c", image="old:1"), tmp_path / "c.yaml")
    place = OnCluster(cluster, "old:1", 8080, 0, False, None, print, 60.0)
    monkeypatch.setattr(upgrade, "_open", lambda *_: place)
    for to, status, printed in ((new, 1, "no terminal to ask on"), (old, 0, f"{old} is the same as {old}")):
        with pytest.raises(SystemExit) as ended:
            main.main(["upgrade", str(old), "--to", str(to), "--cluster", str(tmp_path / "c.yaml")])
        found = capsys.readouterr()
        assert (ended.value.code, printed in " ".join(found.err.split())) == (status, True), found.err
        assert ("engine.max_num_seqs: default -> 8" in found.out) == (to == new)
