"""Who sends what to whom, decided without a cluster."""

import random

import pytest

from raylaunch.weights.transfer_plan import Holding, measure_missing, plan_moves

SIZES = {"a": 400, "b": 300, "c": 200, "d": 100}
ALL = frozenset(SIZES)


def test_nothing_moves_where_all_have_all() -> None:
    assert plan_moves(SIZES, {"n1": Holding(ALL), "n2": Holding(ALL)}, has_hub=True) == ([], [])


def test_one_source_sends_down_one_chain() -> None:
    moves, nowhere = plan_moves(SIZES, {"n1": Holding(), "n2": Holding(ALL), "n3": Holding()}, has_hub=True)
    assert nowhere == []
    assert [(move.name, move.head, move.chain, move.from_hub) for move in moves] == [
        (name, "n2", ("n3", "n1"), False) for name in "abcd"
    ]


def test_nodes_share_the_hub_by_bytes() -> None:
    holdings = {node: Holding(reaches_hub=True) for node in ("n1", "n2")}
    moves, _ = plan_moves(SIZES, holdings, has_hub=True)
    loads = {node: sum(move.size for move in moves if move.head == node) for node in holdings}
    assert loads == {"n1": 500, "n2": 500}
    assert all(move.from_hub and set(move.nodes) == {"n1", "n2"} for move in moves)


def test_only_nodes_that_reach_the_hub_ask_it() -> None:
    moves, _ = plan_moves(SIZES, {"n1": Holding(), "n2": Holding(reaches_hub=True)}, has_hub=True)
    assert {move.head for move in moves} == {"n2"}


def test_who_has_most_of_a_file_asks_for_the_rest() -> None:
    holdings = {
        "n1": Holding(parts={"a": 10}, reaches_hub=True),
        "n2": Holding(parts={"a": 50}, reaches_hub=True),
        "n3": Holding(parts={"a": 30}, reaches_hub=True),
    }
    ([move], _) = plan_moves({"a": 400}, holdings, has_hub=True)
    assert (move.head, move.chain) == ("n2", ("n1", "n3"))  # each hands on only what the next one lacks


def test_file_that_nobody_can_give() -> None:
    holdings = {"n1": Holding(ALL - {"c"}), "n2": Holding()}
    assert plan_moves(SIZES, holdings, has_hub=True)[1] == ["c"]
    reaching = {"n1": Holding(ALL - {"c"}), "n2": Holding(reaches_hub=True)}
    assert plan_moves(SIZES, reaching, has_hub=False)[1] == ["c"]


def test_missing_bytes() -> None:
    assert measure_missing(SIZES, Holding(frozenset("a"), {"b": 100, "c": 999})) == 300


@pytest.mark.parametrize("seed", range(50))
def test_every_node_gets_every_file_once(seed: int) -> None:
    """Whatever is where: after the moves all have all, and nobody is sent what it has."""
    chance = random.Random(seed)
    nodes = [f"n{number}" for number in range(chance.randint(1, 6))]
    holdings = {
        node: Holding(frozenset(n for n in SIZES if chance.random() < 0.4), {}, chance.random() < 0.5) for node in nodes
    }
    moves, nowhere = plan_moves(SIZES, holdings, has_hub=True)
    for name in SIZES:
        lacking = {node for node in nodes if name not in holdings[node].whole}
        of_it = [move for move in moves if move.name == name]
        if name in nowhere or not lacking:
            assert of_it == []
            continue
        [move] = of_it
        assert set(move.chain) | ({move.head} if move.from_hub else set()) == lacking
        assert len(move.chain) == len(set(move.chain))
        assert (name in holdings[move.head].whole) != move.from_hub
