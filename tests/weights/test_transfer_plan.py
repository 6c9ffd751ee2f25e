"""Who sends what to whom, decided without a cluster."""

import random

import pytest

from raylaunch.weights.transfer_plan import NodeFiles, measure_missing, plan_transfers

SIZES = {"a": 400, "b": 300, "c": 200, "d": 100}
ALL = frozenset(SIZES)


def test_nothing_moves_where_all_have_all() -> None:
    assert plan_transfers(SIZES, {"n1": NodeFiles(ALL), "n2": NodeFiles(ALL)}, has_hub=True) == ([], [])


def test_one_source_sends_down_one_chain() -> None:
    transfers, nowhere = plan_transfers(
        SIZES, {"n1": NodeFiles(), "n2": NodeFiles(ALL), "n3": NodeFiles()}, has_hub=True
    )
    assert nowhere == []
    assert [(transfer.name, transfer.head, transfer.chain, transfer.from_hub) for transfer in transfers] == [
        (name, "n2", ("n3", "n1"), False) for name in "abcd"
    ]


def test_nodes_share_the_hub_by_bytes() -> None:
    node_files = {node: NodeFiles(reaches_hub=True) for node in ("n1", "n2")}
    transfers, _ = plan_transfers(SIZES, node_files, has_hub=True)
    loads = {node: sum(transfer.size for transfer in transfers if transfer.head == node) for node in node_files}
    assert loads == {"n1": 500, "n2": 500}
    assert all(transfer.from_hub and set(transfer.nodes) == {"n1", "n2"} for transfer in transfers)


def test_only_nodes_that_reach_the_hub_ask_it() -> None:
    transfers, _ = plan_transfers(SIZES, {"n1": NodeFiles(), "n2": NodeFiles(reaches_hub=True)}, has_hub=True)
    assert {transfer.head for transfer in transfers} == {"n2"}


def test_who_has_most_of_a_file_asks_for_the_rest() -> None:
    node_files = {
        "n1": NodeFiles(parts={"a": 10}, reaches_hub=True),
        "n2": NodeFiles(parts={"a": 50}, reaches_hub=True),
        "n3": NodeFiles(parts={"a": 30}, reaches_hub=True),
    }
    ([transfer], _) = plan_transfers({"a": 400}, node_files, has_hub=True)
    assert (transfer.head, transfer.chain) == ("n2", ("n1", "n3"))  # each hands on only what the next one lacks


def test_file_without_a_source() -> None:
    node_files = {"n1": NodeFiles(ALL - {"c"}), "n2": NodeFiles()}
    assert plan_transfers(SIZES, node_files, has_hub=True)[1] == ["c"]
    reaching = {"n1": NodeFiles(ALL - {"c"}), "n2": NodeFiles(reaches_hub=True)}
    assert plan_transfers(SIZES, reaching, has_hub=False)[1] == ["c"]


def test_missing_bytes() -> None:
    assert measure_missing(SIZES, NodeFiles(frozenset("a"), {"b": 100, "c": 999})) == 300


@pytest.mark.parametrize("seed", range(50))
def test_every_node_gets_every_file_once(seed: int) -> None:
    """From any state: after the transfers all nodes are complete, and no node receives a file that it has."""
    chance = random.Random(seed)
    nodes = [f"n{number}" for number in range(chance.randint(1, 6))]
    node_files = {
        node: NodeFiles(frozenset(n for n in SIZES if chance.random() < 0.4), {}, chance.random() < 0.5)
        for node in nodes
    }
    transfers, nowhere = plan_transfers(SIZES, node_files, has_hub=True)
    for name in SIZES:
        lacking = {node for node in nodes if name not in node_files[node].complete}
        of_it = [transfer for transfer in transfers if transfer.name == name]
        if name in nowhere or not lacking:
            assert of_it == []
            continue
        [transfer] = of_it
        assert set(transfer.chain) | ({transfer.head} if transfer.from_hub else set()) == lacking
        assert len(transfer.chain) == len(set(transfer.chain))
        assert (name in node_files[transfer.head].complete) != transfer.from_hub
