"""What NCCL writes at NCCL_DEBUG=INFO, read."""

import pytest

from raylaunch.preflight.network.nccl_log import read_nccl_log

HEAD = "box1:4711:4711 [0] NCCL INFO "


def make_log(*lines: str) -> str:
    return "\n".join(HEAD + line for line in lines)


@pytest.mark.parametrize(
    ("lines", "network", "kinds"),
    [
        (
            ["NET/IB : Using [0]mlx5_0:1/RoCE [RO]; OOB eth0:10.0.0.1<0>", "Using network IB",
             "Channel 00/0 : 0[0] -> 1[0] [send] via NET/IB/0/GDRDMA"],
            "IB", ("NET/IB",),
        ),
        (
            ["NET/IB : No device found.", "NET/Socket : Using [0]eth0:10.0.0.1<0>", "Using network Socket",
             "Channel 00/0 : 3[3] -> 4[0] [send] via NET/Socket/0"],
            "Socket", ("NET/Socket",),
        ),
        (["Initialized NET plugin Socket", "Channel 00/0 : 0[0] -> 1[1] via P2P/CUMEM"], "Socket", ("P2P",)),
        (["Channel 01 : 0[1] -> 1[2] via SHM/direct/direct"], "", ("SHM",)),
    ],
)  # fmt: skip
def test_networks_and_transports(lines: list[str], network: str, kinds: tuple[str, ...]) -> None:
    facts = read_nccl_log(make_log(*lines))
    assert (facts.network, facts.list_kinds()) == (network, kinds)


def test_a_start_that_hangs() -> None:
    """Init START without Init COMPLETE, and the interface that the bootstrap took."""
    facts = read_nccl_log(
        make_log("Bootstrap: Using docker0:172.17.0.1<0>", "ncclCommInitRank comm 0x5 rank 1 - Init START")
    )
    assert (facts.has_started, facts.is_complete, facts.interfaces) == (True, False, ("docker0",))
    done = read_nccl_log(
        make_log("ncclCommInitRank comm 0x5 - Init START", "ncclCommInitRank comm 0x5 - Init COMPLETE")
    )
    assert (done.has_started, done.is_complete) == (True, True)


def test_warnings_are_kept_once() -> None:
    facts = read_nccl_log("box1:1:1 [0] x.cc:9 NCCL WARN Connect failed\nbox1:1:1 [0] x.cc:9 NCCL WARN Connect failed")
    assert facts.warnings == ("Connect failed",)


def test_an_empty_log() -> None:
    facts = read_nccl_log("")
    assert (facts.network, facts.transports, facts.has_started) == ("", (), False)
