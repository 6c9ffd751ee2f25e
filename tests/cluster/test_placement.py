"""Each rank's place: pure planning, and a reservation in a real Ray."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylaunch.base.errors import ClusterError, NotEnoughGpusError
from raylaunch.cluster import placement, ray_session
from raylaunch.cluster.private import PrivateRay
from raylaunch.cluster.ray_session import ClusterNode


def make_nodes(*gpus: int) -> list[ClusterNode]:
    return [ClusterNode(f"n{i}", f"10.0.0.{i + 1}", f"host{i}", count, i == 0) for i, count in enumerate(gpus)]


def test_reference_case_keeps_groups_inside_nodes() -> None:
    """TP=4 x PP=4 on 2 x 8: stages 0 and 1 on the first node, 2 and 3 on the second, ranks in vLLM's order."""
    places = placement.plan_places(make_nodes(8, 8), tp=4, pp=4)
    assert [place.rank for place in places] == list(range(16))
    assert [place.node.ip for place in places] == ["10.0.0.1"] * 8 + ["10.0.0.2"] * 8
    assert [(place.pp_rank, place.tp_rank) for place in places[:5]] == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0)]


def test_no_more_is_taken_of_a_node_than_was_asked() -> None:
    """A launch over two nodes with 2 GPUs each uses both, also where each has 8."""
    places = placement.plan_places(make_nodes(8, 8), tp=2, pp=2, gpus_per_node=2)
    assert [place.node.ip for place in places] == ["10.0.0.1"] * 2 + ["10.0.0.2"] * 2


def test_group_that_does_not_fit_goes_to_the_next_node() -> None:
    """TP=3 on nodes of 4: one group a node, one GPU of each left over."""
    places = placement.plan_places(make_nodes(4, 4), tp=3, pp=2)
    assert [place.node.ip for place in places] == ["10.0.0.1"] * 3 + ["10.0.0.2"] * 3


def test_group_may_span_nodes_only_when_allowed() -> None:
    """TP=8 on two nodes of 4."""
    with pytest.raises(ClusterError, match="do not fit"):
        placement.plan_places(make_nodes(4, 4), tp=8, pp=1)
    places = placement.plan_places(make_nodes(4, 4), tp=8, pp=1, tp_across_nodes=True)
    assert [place.node.ip for place in places] == ["10.0.0.1"] * 4 + ["10.0.0.2"] * 4


@given(st.lists(st.integers(0, 9), min_size=1, max_size=5), st.integers(1, 8), st.integers(1, 6))
def test_plans_never_split_a_group_or_overfill_a_node(gpus: list[int], tp: int, pp: int) -> None:
    """For any cluster, a plan keeps each group in one node and within its GPUs, or raises that it does not fit."""
    nodes = make_nodes(*gpus)
    fits = sum(count // tp for count in gpus) >= pp
    if not fits:
        with pytest.raises(ClusterError):
            placement.plan_places(nodes, tp=tp, pp=pp)
        return
    places = placement.plan_places(nodes, tp=tp, pp=pp)
    assert len(places) == tp * pp
    for stage in range(pp):
        assert len({place.node.node_id for place in places if place.pp_rank == stage}) == 1
    for node in nodes:
        assert sum(place.node == node for place in places) <= node.gpus


def test_ranks_are_located_in_the_order_of_their_gpus() -> None:
    """As vLLM assigns them, whatever the order of the names; a node without figures keeps what Ray counted."""
    places = tuple(placement.plan_places(make_nodes(8, 8), tp=2, pp=2, gpus_per_node=2))
    found = placement.Reservation("00", places).locate({places[0].node.ip: [7, 4]})
    assert [place.gpu for place in found.places] == [4, 7, None, None]


@pytest.mark.ray
def test_reservation_holds_gpus_where_planned_and_finds_their_indices() -> None:
    """Two real Ray nodes of three GPUs: a group of two on each; then there is no room for another pair."""
    import ray

    private = PrivateRay.start(nodes=2, gpus_per_node=3, env_vars={})
    try:
        ray_session.join(private.address, env_vars={})
        nodes = ray_session.wait_for_gpus(nodes=2, gpus_per_node=3, wait_s=60, report=lambda lines: None)
        held = placement.reserve(placement.plan_places(nodes, tp=2, pp=2))
        assert [place.node.node_id for place in held.places] == [nodes[0].node_id] * 2 + [nodes[1].node_id] * 2
        for stage in (held.places[:2], held.places[2:]):
            indices = [place.gpu for place in stage]
            assert indices == sorted(indices)
            assert set(indices) < {0, 1, 2}
        with pytest.raises(NotEnoughGpusError, match=r"taken: .* has 1 free"):
            placement.reserve(placement.plan_places(nodes, tp=2, pp=1), timeout_s=1)
        held.release()
        placement.reserve(placement.plan_places(nodes, tp=2, pp=1), timeout_s=30).release()
    finally:
        ray.shutdown()
        private.stop()
