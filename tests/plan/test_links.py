"""Link rates of a plan: what the check of the network measured, what the user names, else round figures."""

import os
from pathlib import Path

import pytest

from raylaunch.base.errors import LaunchFileError
from raylaunch.plan.gpus import ClusterGpus, read_cluster
from raylaunch.preflight.network import memory

_CARD = ("NVIDIA GeForce RTX 4090", 25_250_000_000)


def test_measured_rates_go_before_nominal_ones_and_named_ones_before_both() -> None:
    nodes = [[_CARD, _CARD], [_CARD, _CARD]]
    plain, measured = ClusterGpus(nodes), ClusterGpus(nodes, network_bytes_s=1.1e9, peer_bytes_s=19.6e9)
    for answer, named, network, peer, source in (
        (plain, None, 1.25e9, 10e9, "nominal"),
        (measured, None, 1.1e9, 19.6e9, "measured by netcheck"),
        (measured, 25.0, 3.125e9, 19.6e9, "measured by netcheck"),
        (plain, 25.0, 3.125e9, 10e9, "nominal"),
    ):
        fleet = read_cluster(answer, named)
        rates = (fleet.network_rate, fleet.machines[0].kind.peer_rate, fleet.link_source)
        assert rates == (pytest.approx(network), pytest.approx(peer), source)


def test_logical_gpus_cannot_be_planned() -> None:
    with pytest.raises(LaunchFileError, match="logical GPUs have no memory"):
        read_cluster(ClusterGpus([[], []]), None)


def test_the_newest_check_of_these_nodes_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one of other nodes, nor one that measured nothing, nor a damaged file."""
    monkeypatch.setenv("RAYLAUNCH_HOME", str(tmp_path))
    ours = ("10.0.0.1", "10.0.0.2")
    for at, (nodes, rate) in enumerate(((ours, 1e9), (ours, 2e9), (ours, 0.0), (("10.0.0.1", "10.0.0.3"), 4e9))):
        memory.remember(f"f{at}", memory.Proof((), {}, False, nodes, rate))
        os.utime(tmp_path / "netcheck" / f"f{at}.json", (at, at))
    (tmp_path / "netcheck" / "f9.json").write_text("{")
    found = memory.recall_rates(["10.0.0.2", "10.0.0.1"])
    assert found is not None
    assert found.network_bytes_s == 2e9
