"""What is remembered of an earlier start, and what makes it void."""

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raylaunch.base import paths
from raylaunch.node.network.interfaces import Interface, NodeNetwork, read_network
from raylaunch.preflight.network import memory
from raylaunch.preflight.network.memory import Proof, make_fingerprint, recall, recall_rates, remember
from raylaunch.preflight.network.shapes import make_shapes
from tests.preflight.network.test_rules import LLAMA_70B, PLACES, make_facts

SHAPES = make_shapes(LLAMA_70B)
VERSIONS = ("2.13", "2.60.0", "0.32.0")
PROOF = Proof(("Gloo over 4 ranks",), {"NCCL_P2P_DISABLE": "1"}, True, ("10.0.0.1", "10.0.0.2"), 1e9, 2e10)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAYLAUNCH_HOME", str(tmp_path))
    return paths.home()


def make_key(*facts: NodeNetwork, **changes: Any) -> str:
    values = {"places": PLACES, "facts": facts or (make_facts(1), make_facts(2)), "shapes": SHAPES} | changes
    return make_fingerprint(**({"versions": VERSIONS, "uses_gpus": True} | values))


VETH = Interface("veth1a2b", "", 1500, None)


@pytest.mark.parametrize(
    "change",
    [
        {"driver": "590.2"},
        {"kernel": "6.9"},
        {"interfaces": (Interface("eth0", "10.0.0.1", 9000, 10000),)},
        {"infiniband": ("mlx5_0",)},
        {"can_use_infiniband": True},
        {"environment": {"NCCL_NET": "Socket"}},
        {"gpus": ("0000:01:00.0 0x2684 0x1043 0x88e2",)},
        {"isolation": "quiet iommu=pt"},
        {"resolved": "127.0.1.1"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_changed_node_is_measured_again(change: dict[str, Any]) -> None:
    assert make_key(make_facts(1, **change), make_facts(2)) != make_key()


@pytest.mark.parametrize(
    "change",
    [
        {"shapes": None},
        {"shapes": replace(SHAPES, hidden_size=4096)},
        {"places": PLACES[:2]},
        {"places": tuple(replace(place, gpu=1 - (place.gpu or 0)) for place in PLACES)},
        {"versions": ("2.14", *VERSIONS[1:])},
        {"uses_gpus": False},
    ],
    ids=["no model", "model", "fewer ranks", "other GPUs", "PyTorch", "without GPUs"],
)
def test_another_layout_is_measured_again(change: dict[str, Any]) -> None:
    assert make_key(**change) != make_key()


def test_another_version_of_raylaunch_measures_again(monkeypatch: pytest.MonkeyPatch) -> None:
    before = make_key()
    monkeypatch.setattr(memory, "__version__", "99")
    assert make_key() != before


def test_what_changes_by_itself_is_no_change() -> None:
    """A reboot, the order of answers, and the pair that a started container brings."""
    rebooted, other = make_facts(1, machine="another boot"), make_facts(2)
    busy = replace(rebooted, interfaces=(*rebooted.interfaces, VETH))
    assert make_key(other, busy) == make_key()


def test_cards_and_isolation_are_read(tmp_path: Path) -> None:
    """From the kernel's files, as a node has them."""
    card = tmp_path / "sys/bus/pci/drivers/nvidia/0000:41:00.0"
    card.mkdir(parents=True)
    for name, value in (("device", "0x2684"), ("subsystem_vendor", "0x1043"), ("subsystem_device", "0x88e2")):
        (card / name).write_text(f"{value}\n")
    (tmp_path / "sys/class/iommu/dmar0").mkdir(parents=True)
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cmdline").write_text("quiet intel_iommu=on\n")
    facts = read_network("127.0.0.1", root=tmp_path)
    assert facts.gpus == ("0000:41:00.0 0x2684 0x1043 0x88e2",)
    assert facts.isolation == "quiet intel_iommu=on dmar0"


def test_a_proof_comes_back() -> None:
    remember("a", PROOF)
    assert recall("a") == PROOF
    assert recall("b") is None
    assert recall_rates(["10.0.0.1", "10.0.0.2", "10.0.0.3"]) == PROOF


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"proved": ["Gloo"], "environ',
        b"\xff\xfe",
        b"[]",
        b'{"proved": 1, "environment": {}}',
        b'{"of": "another"}',
    ],
)
def test_a_file_that_is_none_of_ours_is_measured_again(home: Path, content: bytes) -> None:
    """Half-written, binary, or another program's: as if it were absent, and replaced."""
    remember("a", PROOF)
    (home / "netcheck/a.json").write_bytes(content)
    assert recall("a") is None
    assert recall_rates(PROOF.nodes) is None
    remember("a", PROOF)
    assert recall("a") == PROOF


def test_a_newer_versions_file_is_read_as_far_as_it_fits(home: Path) -> None:
    remember("a", PROOF)
    path = home / "netcheck/a.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"since": 1}))
    assert recall("a") == PROOF


def test_a_home_that_takes_no_file(home: Path) -> None:
    """Nothing is remembered, and nothing fails: here the folder's name is taken by a file."""
    (home).mkdir(parents=True, exist_ok=True)
    (home / "netcheck").write_text("")
    remember("a", PROOF)
    assert recall("a") is None


def test_two_services_at_once() -> None:
    """Whoever reads sees a complete proof, of one or of the other."""
    remember("a", PROOF)
    proofs = [replace(PROOF, proved=(str(number) * 5000,)) for number in range(2)]
    done = threading.Event()

    def write(proof: Proof) -> None:
        while not done.is_set():
            remember("a", proof)

    writers = [threading.Thread(target=write, args=(proof,)) for proof in proofs]
    for writer in writers:
        writer.start()
    seen = [recall("a") for _ in range(300)]
    done.set()
    for writer in writers:
        writer.join()
    assert None not in seen
    assert all(proof in (PROOF, *proofs) for proof in seen)
