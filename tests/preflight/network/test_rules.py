"""Verdicts on measured networks: two nodes with two GPUs each, with one thing wrong in each test."""

from dataclasses import replace
from typing import Any

import pytest

from raylaunch.cluster.placement import RankPlace
from raylaunch.cluster.ray_session import ClusterNode
from raylaunch.node.network.interfaces import Interface, NodeNetwork
from raylaunch.node.network.links import LinkMeasured
from raylaunch.node.network.prober import TrialResult
from raylaunch.preflight.findings import Finding
from raylaunch.preflight.network import collective_rules, link_rules
from raylaunch.preflight.network.measured import GroupTrial, NetworkMeasured, list_hops
from raylaunch.preflight.network.run import list_rounds
from raylaunch.preflight.network.shapes import make_shapes
from raylaunch.preflight.network.trials import list_not_proved

NODES = [ClusterNode(str(number), f"10.0.0.{number}", f"box{number}", 2, number == 1) for number in (1, 2)]
PLACES = tuple(RankPlace(rank, rank % 2, rank // 2, NODES[rank // 2], rank % 2) for rank in range(4))
LLAMA_70B = {
    "hidden_size": 8192, "num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8,
    "intermediate_size": 28672,
}  # fmt: skip
PASSED = (
    {"step": "group"},
    {"step": "allreduce", "bytes": 1 << 24, "seconds": 0.01, "is_right": True},
    {"step": "end"},
)


def make_facts(number: int, **changes: Any) -> NodeNetwork:
    eth0 = Interface("eth0", f"10.0.0.{number}", 1500, 10000)
    healthy = NodeNetwork(
        node_ip=f"10.0.0.{number}",
        hostname=f"box{number}",
        machine=f"machine {number}",
        kernel="6.8",
        driver="580.1",
        interfaces=(Interface("lo", "127.0.0.1", 65536, None), eth0),
        infiniband=(),
        can_use_infiniband=False,
        environment={},
    )
    return replace(healthy, **changes)


def make_link(**changes: Any) -> LinkMeasured:
    healthy = LinkMeasured("10.0.0.1", "10.0.0.2", "", 50.0, 1150.0, 1150.0, (), 1500)
    return replace(healthy, **changes)


def make_trial(name: str, ranks: tuple[int, ...] = (0, 1, 2, 3), **broken: Any) -> GroupTrial:
    """A trial that passed, but for `rank N`: other steps."""
    results = tuple(TrialResult(rank, broken.get(f"rank{rank}", PASSED), broken.get("log", "")) for rank in ranks)
    return GroupTrial(name, ranks, results)


def make_measured(**changes: Any) -> NetworkMeasured:
    healthy = NetworkMeasured(PLACES, (make_facts(1), make_facts(2)), (make_link(),))
    return replace(healthy, **changes)


def judge(measured: NetworkMeasured) -> list[Finding]:
    return [
        *link_rules.judge_links(measured),
        *link_rules.judge_addresses(measured),
        *link_rules.judge_interfaces(measured),
        *collective_rules.judge_gloo(measured),
        *collective_rules.judge_nccl(measured),
        *collective_rules.judge_hops(list_hops(measured)),
    ]


def test_a_healthy_cluster_has_no_findings() -> None:
    trials = (make_trial("gloo"), make_trial("tp 0", (0, 1)), make_trial("tp 1", (2, 3)), make_trial("nccl"))
    assert judge(make_measured(trials=trials)) == []


@pytest.mark.parametrize(
    ("change", "level", "words"),
    [
        ({"error": "Connection refused"}, "error", "cannot open a connection to 10.0.0.2: Connection refused"),
        ({"lost": (4000,), "passed": 1500}, "warning", "packets of 4,000 bytes to 10.0.0.2 vanish"),
        ({"lost": (4000,), "passed": 1500, "in_mb_s": None}, "error", "transfers stall from 10.0.0.2 to 10.0.0.1"),
        ({"out_mb_s": None}, "error", "a transfer stalls from 10.0.0.1 to 10.0.0.2"),
        ({"out_mb_s": 110.0}, "warning", "carries 110 MB/s of the 1,250 that its interface has"),
        ({"out_mb_s": 110.0, "out_resent": 0.05}, "warning", "its interface has; 5% of its packets are lost"),
        ({"out_resent": 0.03}, "warning", "3% of the packets to 10.0.0.2 are lost and sent again"),
        ({"round_trip_us": 1e5, "out_mb_s": 6.0}, "warning", "a round trip to 10.0.0.2 takes 100 ms: no local network"),
    ],
)
def test_links(change: dict[str, Any], level: str, words: str) -> None:
    (found,) = judge(make_measured(links=(make_link(**change),)))
    assert (found.level, found.node) == (level, "10.0.0.1")
    assert words in found.what


def test_one_link_far_below_the_median_of_many() -> None:
    links = [make_link(source=f"10.0.0.{n}", target=f"10.0.0.{n + 1}", out_mb_s=3000.0, in_mb_s=2900.0) for n in (1, 2)]
    slow = make_link(source="10.0.0.1", target="10.0.0.3", out_mb_s=700.0, in_mb_s=3000.0)
    (found,) = judge(make_measured(links=(*links, slow)))
    assert "the link to 10.0.0.3 carries 700 MB/s, the median of all links" in found.what


@pytest.mark.parametrize(
    ("variable", "value", "is_right"),
    [
        ("NCCL_SOCKET_IFNAME", "eth", True),
        ("NCCL_SOCKET_IFNAME", "=eth", False),
        ("NCCL_SOCKET_IFNAME", "=eth0", True),
        ("NCCL_SOCKET_IFNAME", "^docker,lo", True),
        ("NCCL_SOCKET_IFNAME", "ib0,eth0", True),
        ("NCCL_SOCKET_IFNAME", "enp3s0", False),
        ("GLOO_SOCKET_IFNAME", "eth", False),
        ("GLOO_SOCKET_IFNAME", "eth0", True),
    ],
)
def test_interface_variables(variable: str, value: str, is_right: bool) -> None:
    """NCCL's rules of names, and Gloo's."""
    found = judge(make_measured(facts=(make_facts(1), make_facts(2, environment={variable: value}))))
    assert [(finding.node, finding.fix) for finding in found] == (
        [] if is_right else [("10.0.0.2", f"start Ray on 10.0.0.2 with {variable}=eth0")]
    )


@pytest.mark.parametrize("variable", ["NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"])
def test_a_bridge_that_both_hosts_have(variable: str) -> None:
    """docker0 has one address on every host: an interface of that kind leads to none of them."""
    both = [make_facts(number, environment={variable: "docker0"}) for number in (1, 2)]
    docker0 = Interface("docker0", "172.17.0.1", 1500, None)
    hosts = tuple(replace(one, interfaces=(*one.interfaces, docker0)) for one in both)
    found = judge(make_measured(facts=hosts))
    assert [(one.node, one.level, one.fix) for one in found] == [
        (f"10.0.0.{number}", "error", f"start Ray on 10.0.0.{number} with {variable}=eth0") for number in (1, 2)
    ]
    assert "docker0 is 172.17.0.1 here and on another node" in found[0].what
    unset = tuple(replace(one, environment={}) for one in hosts)
    assert judge(make_measured(facts=unset)) == []


def test_two_nodes_with_one_address() -> None:
    twin = replace(NODES[1], node_id="3", hostname="box3")
    (found,) = judge(make_measured(places=(*PLACES, RankPlace(4, 0, 2, twin, 0))))
    assert (found.node, found.level) == ("10.0.0.2", "error")
    assert "2 Ray nodes have the address 10.0.0.2: box2, box3" in found.what


@pytest.mark.parametrize(
    ("resolved", "variable", "why"),
    [
        ("127.0.1.1", None, "its hostname, box2, is 127.0.1.1 in /etc/hosts"),
        ("::1", None, "its hostname, box2, is ::1 in /etc/hosts"),
        ("", None, "its hostname, box2, resolves to nothing"),
        ("", "lo", "GLOO_SOCKET_IFNAME=lo"),
        ("10.0.0.2", None, None),
        ("127.0.1.1", "eth0", None),
    ],
)
def test_gloo_on_loopback_names_every_node(resolved: str, variable: str | None, why: str | None) -> None:
    """The first host's hostname is loopback too; the second's is what varies."""
    environment = {"GLOO_SOCKET_IFNAME": variable} if variable else {}
    hosts = (make_facts(1, resolved="127.0.1.1"), make_facts(2, resolved=resolved, environment=environment))
    refused = "Gloo connectFullMesh failed: Connection refused, remote=[127.0.1.1]:4711"
    broken = make_trial("gloo", rank0=({"step": "store"}, {"step": "error", "text": refused}))
    found = judge(make_measured(facts=hosts, trials=(broken,)))
    assert [one.node for one in found] == ["10.0.0.1", "10.0.0.2"][: 2 if why else 1]
    assert why is None or why in found[1].what
    assert found[-1].fix == f"start Ray on {found[-1].node} with GLOO_SOCKET_IFNAME=eth0"


def test_loopback_without_a_cause_is_an_error_still() -> None:
    """Both name the right interface, and Gloo fails all the same: never passed in silence."""
    hosts = tuple(make_facts(number, environment={"GLOO_SOCKET_IFNAME": "eth0"}) for number in (1, 2))
    refused = "Gloo connectFullMesh failed: Connection refused, remote=[127.0.0.1]:4711"
    broken = make_trial("gloo", rank0=({"step": "store"}, {"step": "error", "text": refused}))
    (found,) = judge(make_measured(facts=hosts, trials=(broken,)))
    assert found.level == "error"
    assert found.fix.startswith("firewalls must let every port pass between 10.0.0.1")


def test_monitored_barrier_names_the_rank() -> None:
    said = "[Rank 0]: Ranks 3 failed to pass monitoredBarrier in 5000 ms"
    broken = make_trial("gloo", rank0=({"step": "group"}, {"step": "error", "text": said}), rank3=({"step": "begun"},))
    (found,) = judge(make_measured(trials=(broken,)))
    assert found.node == "10.0.0.2"
    assert "rank 3 (10.0.0.2, GPU 1) does not meet the other ranks" in found.what


@pytest.mark.parametrize("name", ["gloo", "nccl"])
def test_a_node_that_dies_during_the_check_is_named(name: str) -> None:
    """With its ranks, and not for the error that the others get of it."""
    lost = ({"step": "lost"},)
    failed = ({"step": "store"}, {"step": "error", "text": "Connection closed by peer [10.0.0.2]:4711"})
    trial = make_trial(name, rank0=failed, rank1=failed, rank2=lost, rank3=lost)
    (found,) = judge(make_measured(trials=(trial,)))
    assert (found.node, found.level) == ("10.0.0.2", "error")
    assert found.what.startswith("rank 2 (10.0.0.2, GPU 0), rank 3 (10.0.0.2, GPU 1): no answer any more")


def test_peer_access_that_hangs_is_turned_off() -> None:
    """It works without peer access: a warning that names the GPUs, and the launch goes on."""
    hung = make_trial("tp 0", (0, 1), rank0=({"step": "store"},), rank1=({"step": "store"},))
    trials = (make_trial("gloo"), hung, make_trial("tp 0 without peer access", (0, 1)), make_trial("nccl"))
    measured = make_measured(trials=trials)
    (found,) = judge(measured)
    assert found.level == "warning"
    assert "peer access between GPUs hangs (rank 0 (10.0.0.1, GPU 0), rank 1 (10.0.0.1, GPU 1))" in found.what
    assert collective_rules.needs_no_peer_access(measured) == (hung,)


def test_peer_access_that_lies_is_turned_off() -> None:
    wrong = ({"step": "group"}, {"step": "allreduce", "bytes": 1, "seconds": 1.0, "is_right": False}, {"step": "end"})
    lying = make_trial("tp 1", (2, 3), rank3=wrong)
    trials = (make_trial("gloo"), lying, make_trial("tp 1 without peer access", (2, 3)), make_trial("nccl"))
    (found,) = judge(make_measured(trials=trials))
    assert "delivers wrong values" in found.what


def test_nothing_is_set_where_peer_access_works() -> None:
    trials = (make_trial("tp 0", (0, 1)), make_trial("tp 0 without peer access", (0, 1)))
    assert collective_rules.needs_no_peer_access(make_measured(trials=trials)) == ()


def test_a_hang_with_and_without_peer_access_is_an_error() -> None:
    """The rank that got less far is named, with NCCL's own warning."""
    log = (
        "box2:9:9 [1] NCCL INFO ncclCommInitRank comm 0x1 Init START\nbox2:9:9 [1] misc/socket.cc:42 NCCL WARN no route"
    )
    trials = tuple(
        make_trial(name, (2, 3), rank2=({"step": "store"}, {"step": "group"}), rank3=({"step": "store"},), log=log)
        for name in ("tp 1", "tp 1 without peer access")
    )
    (found,) = judge(make_measured(trials=trials))
    assert (found.node, found.level) == ("10.0.0.2", "error")
    assert found.what.startswith("rank 3 (10.0.0.2, GPU 1) hangs in NCCL: no route")


@pytest.mark.parametrize(
    ("log", "facts", "words"),
    [
        ("NCCL_IB_DISABLE set by environment to 1", {}, "NCCL_IB_DISABLE=1 is set"),
        ("", {}, "the container has no /dev/infiniband"),
        ("NET/IB : No device found.", {"can_use_infiniband": True}, "NCCL finds no device there"),
    ],
)
def test_sockets_although_there_is_infiniband(log: str, facts: dict[str, Any], words: str) -> None:
    """The first cause that holds."""
    text = f"box1:1:1 [0] NCCL INFO {log}\nbox1:1:1 [0] NCCL INFO Using network Socket"
    hosts = (make_facts(1, infiniband=("mlx5_0",), **facts), make_facts(2))
    (found,) = judge(make_measured(facts=hosts, trials=(make_trial("nccl", log=text),)))
    assert (found.node, found.level) == ("10.0.0.1", "warning")
    assert words in found.what


@pytest.mark.parametrize(("prefill_s", "level"), [(0.04, None), (0.24, "warning"), (0.8, "error")])
def test_hops_against_what_the_stage_computes(prefill_s: float, level: str | None) -> None:
    """Two stages of 70B on GPUs of 160 TFLOP/s: 0.43 s for a chunk of 2,048 tokens; warn at 30, refuse at 100 %."""
    steps = (
        {"step": "matmul", "flop_s": 1.6e14},
        {"step": "hop", "hop": 0, "kind": "prefill", "bytes": 1, "seconds": prefill_s, "is_right": True},
        {"step": "hop", "hop": 0, "kind": "decode", "bytes": 1, "seconds": 1e-3, "is_right": True},
        {"step": "end"},
    )
    trial = make_trial("nccl", rank0=steps, rank2=steps)
    measured = make_measured(trials=(trial,), shapes=make_shapes(LLAMA_70B))
    (hop,) = list_hops(measured)
    assert hop.stage_s == pytest.approx(0.43, rel=0.05)
    assert hop.bytes == 2 * 2048 * 8192 * 2
    assert [found.level for found in judge(measured)] == ([level] if level else [])


@pytest.mark.parametrize(
    ("warning", "value", "fix"),
    [
        (
            "socketPollConnect: Connect to 172.17.0.1<4711> returned 111(Connection refused)",
            None,
            "start Ray on 10.0.0.2",
        ),
        ("socketPollConnect: Connect to 10.0.0.1<4711> returned 113(No route to host)", "eth0", "the host firewall"),
        ("Call to ibv_reg_mr failed with error Cannot allocate memory", None, "start the container with --ulimit"),
    ],
)
def test_the_interface_comes_first_where_it_is_the_cause(warning: str, value: str | None, fix: str) -> None:
    """Not for failures of RDMA, and not where the right one is set."""
    log = (
        f"box2:9:9 [1] NCCL INFO Bootstrap: Using docker0:172.17.0.1<0>\nbox2:9:9 [1] misc/x.cc:42 NCCL WARN {warning}"
    )
    hosts = (make_facts(1), make_facts(2, environment={"NCCL_SOCKET_IFNAME": value} if value else {}))
    trial = make_trial("nccl", rank3=({"step": "store"},), log=log)
    (found,) = judge(make_measured(facts=hosts, trials=(trial,)))
    assert found.fix.startswith(fix)


@pytest.mark.parametrize(
    ("change", "how", "expected"),
    [
        ({"places": PLACES[:1]}, (True, True), "anything: one rank talks to no other"),
        ({"places": PLACES[:2]}, (True, False), "anything: all ranks are on one node, and its GPUs are logical"),
        ({"places": PLACES[:2]}, (False, False), "anything: all ranks are on one node, and its GPUs are in use"),
        (
            {"trials": (make_trial("gloo"),)},
            (True, True),
            "NCCL, peer access, hops between stages: the GPUs are logical",
        ),
        (
            {"trials": (make_trial("gloo"),)},
            (False, False),
            "NCCL, peer access, hops between stages: the GPUs are in use",
        ),
        ({}, (True, True), "Gloo, NCCL, peer access, hops between stages: what comes before has failed"),
        ({"trials": (make_trial("gloo"), make_trial("nccl"))}, (False, True), None),
    ],
)
def test_what_was_not_tried_is_listed(change: dict[str, Any], how: tuple[bool, bool], expected: str | None) -> None:
    """And why."""
    found = list_not_proved(make_measured(**change), is_logical=how[0], is_reserved=how[1])
    assert found == ((expected,) if expected else ())


def test_rounds_hold_every_pair_once() -> None:
    for count in range(2, 9):
        names = [str(number) for number in range(count)]
        rounds = list_rounds(names)
        pairs = [frozenset(pair) for one in rounds for pair in one]
        assert len(pairs) == len(set(pairs)) == count * (count - 1) // 2
        for one in rounds:
            busy = [name for pair in one for name in pair]
            assert len(busy) == len(set(busy))
