"""What NCCL writes at NCCL_DEBUG=INFO, read: lines of public reports, a section a kind."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from raylaunch.explain.signatures import find_heaviest
from raylaunch.node.network.prober import TrialResult
from raylaunch.preflight.network.collective_rules import judge_nccl
from raylaunch.preflight.network.measured import GroupTrial
from raylaunch.preflight.network.nccl_log import read_nccl_log
from raylaunch.preflight.network.trials import list_proved
from tests.preflight.network.test_rules import PASSED, make_facts, make_measured

RECORDED = Path(__file__).parents[2] / "data/nccl/recorded.txt"
KEYS = ("network", "interfaces", "kinds", "devices", "sockets", "known", "hangs")


@dataclass(frozen=True)
class Section:
    name: str
    expected: dict[str, str]
    log: str


def read_sections() -> list[Section]:
    sections = []
    for text in RECORDED.read_text().split("\n== ")[1:]:
        head, *lines = text.strip("\n").split("\n")
        keys = [line.partition(":") for line in lines if line.partition(":")[0] in KEYS]
        expected = {key: value.strip() for key, _, value in keys}
        sections.append(Section(head.partition("  ")[0], expected, "\n".join(lines[len(keys) :])))
    return sections


@pytest.mark.parametrize("section", read_sections(), ids=lambda section: section.name)
def test_recorded(section: Section) -> None:
    """The network, what carries it, and the cause where that is not what the host has."""
    facts = read_nccl_log(section.log)
    known = find_heaviest(facts.warnings)
    found = {
        "network": facts.network,
        "interfaces": " ".join(facts.interfaces),
        "kinds": " ".join(facts.list_kinds()),
        "devices": " ".join(facts.devices),
        "known": known.signature.key if known else "",
        "hangs": "yes" if facts.has_started and not facts.is_complete else "no",
        "sockets": explain_sockets(section.log),
    }
    for key, value in section.expected.items():
        assert value in found[key] if key == "sockets" else found[key] == value, (key, found[key])


def explain_sockets(log: str, *devices: str) -> str:
    """The cause that is given on a host with InfiniBand, and what to do."""
    host = make_facts(1, infiniband=devices or ("mlx5_0",), can_use_infiniband=True)
    trial = GroupTrial("nccl", (0,), (TrialResult(0, PASSED, log),))
    found = list(judge_nccl(make_measured(facts=(host, make_facts(2)), trials=(trial,))))
    return " ".join(f"{finding.what}: {finding.fix}" for finding in found)


def test_efa_without_its_plugin() -> None:
    log = "box1:1:1 [0] NCCL INFO NET/IB : No device found.\nbox1:1:1 [0] NCCL INFO Using network Socket"
    assert "aws-ofi-nccl" in explain_sockets(log, "rdmap79s0", "rdmap80s0")
    assert "aws-ofi-nccl" not in explain_sockets(log, "rdmap79s0", "mlx5_0")


def test_what_carries_a_trial_is_reported() -> None:
    """Its transports, and the devices or interfaces below them."""
    by_name = {section.name: section.log for section in read_sections()}
    log = by_name["roce, two groups, 2.18.5 (composed)"]
    trial = GroupTrial("nccl", (0, 1), tuple(TrialResult(rank, PASSED, log) for rank in (0, 1)))
    (line,) = list_proved(replace(make_measured(), trials=(trial,)))
    assert line == "NCCL over 2 ranks (NET/IB; over mlx5_4; all-reduce 1.7 GB/s)"


def test_a_start_that_hangs() -> None:
    """Init START without Init COMPLETE, and the interface that the bootstrap took."""
    facts = read_nccl_log(
        "box1:1:1 [0] NCCL INFO Bootstrap: Using docker0:172.17.0.1<0>\n"
        "box1:1:1 [0] NCCL INFO ncclCommInitRank comm 0x5 rank 1 - Init START"
    )
    assert (facts.has_started, facts.is_complete, facts.interfaces) == (True, False, ("docker0",))


def test_warnings_are_kept_once() -> None:
    line = "box1:1:1 [0] x.cc:9 NCCL WARN Connect failed\n"
    assert read_nccl_log(2 * line).warnings == ("x.cc:9 NCCL WARN Connect failed",)


def test_an_empty_log() -> None:
    facts = read_nccl_log("")
    assert (facts.network, facts.transports, facts.has_started) == ("", (), False)
