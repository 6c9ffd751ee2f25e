"""What was proved at an earlier start, by the fingerprint of hardware, software and layout."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from raylaunch.base import paths
from raylaunch.cluster.placement import RankPlace
from raylaunch.node.network.interfaces import NodeNetwork
from raylaunch.preflight.network.shapes import ModelShapes


@dataclass(frozen=True, slots=True)
class Proof:
    """Trials that all passed, and what they needed."""

    proved: tuple[str, ...]
    environment: Mapping[str, str]
    disable_custom_all_reduce: bool


def make_fingerprint(
    places: Sequence[RankPlace], facts: Sequence[NodeNetwork], shapes: ModelShapes | None, versions: Sequence[str]
) -> str:
    """Of everything that a proof depends on: hosts, kernel, driver, interfaces, GPUs, PyTorch, layout, model."""
    nodes = [
        asdict(one) | {"machine": ""} for one in sorted(facts, key=lambda one: one.node_ip)
    ]  # a reboot is no change
    layout = [(place.rank, place.pp_rank, place.node.ip, place.gpu) for place in places]
    text = json.dumps([nodes, layout, shapes and asdict(shapes), list(versions)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _find_file(fingerprint: str) -> Path:
    return paths.home() / "netcheck" / f"{fingerprint}.json"


def recall(fingerprint: str) -> Proof | None:
    """The proof of this fingerprint, if there is one."""
    try:
        fields = json.loads(_find_file(fingerprint).read_text(encoding="utf-8"))
        return Proof(tuple(fields["proved"]), dict(fields["environment"]), bool(fields["disable_custom_all_reduce"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def remember(fingerprint: str, proof: Proof) -> None:
    """Keep it for the next start."""
    paths.write_quietly(_find_file(fingerprint), json.dumps(asdict(proof)))
