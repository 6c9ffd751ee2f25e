"""What was proved at an earlier start, by the fingerprint of hardware, software and layout."""

import contextlib
import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

from raylaunch import __version__
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
    nodes: tuple[str, ...] = ()
    """Addresses of the nodes."""
    network_bytes_s: float = 0.0
    """Of the slowest link between two nodes; 0 is not measured."""
    peer_bytes_s: float = 0.0
    """Of the slowest all-reduce within a node; 0 is not measured."""
    not_proved: tuple[str, ...] = ()


def make_fingerprint(
    places: Sequence[RankPlace],
    facts: Sequence[NodeNetwork],
    shapes: ModelShapes | None,
    versions: Sequence[str],
    *,
    uses_gpus: bool,
) -> str:
    """Of everything that a proof depends on: hosts, kernel, driver, interfaces, GPUs, versions, layout, model.

    Args:
        uses_gpus: whether NCCL is tried too; a proof without it proves nothing to a start on GPUs.
    """
    nodes = [_describe(one) for one in sorted(facts, key=lambda one: one.node_ip)]
    layout = [(place.rank, place.pp_rank, place.node.ip, place.gpu) for place in places]
    text = json.dumps(
        [__version__, uses_gpus, nodes, layout, shapes and asdict(shapes), list(versions)], sort_keys=True
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _describe(facts: NodeNetwork) -> dict[str, object]:
    """Without what changes by itself: the boot's id, and interfaces without address (each container brings one)."""
    kept = [asdict(one) for one in facts.interfaces if one.address]
    return asdict(facts) | {"machine": "", "interfaces": kept}


def _find_file(fingerprint: str) -> Path:
    return paths.home() / "netcheck" / f"{fingerprint}.json"


def recall(fingerprint: str) -> Proof | None:
    """The proof of this fingerprint, if there is one."""
    return _read(_find_file(fingerprint))


def _read(file: Path) -> Proof | None:
    try:
        return TypeAdapter(Proof).validate_json(file.read_bytes())
    except (OSError, ValueError):
        return None


def recall_rates(nodes: Collection[str]) -> Proof | None:
    """The last check that measured a rate among these nodes, whatever its model and layout."""
    with contextlib.suppress(OSError):
        files = sorted(_find_file("").parent.glob("*.json"), key=lambda file: file.stat().st_mtime, reverse=True)
        known = (proof for file in files if (proof := _read(file)) is not None)
        return next(
            (p for p in known if p.nodes and set(p.nodes) <= set(nodes) and (p.network_bytes_s or p.peer_bytes_s)), None
        )
    return None


def remember(fingerprint: str, proof: Proof) -> None:
    """Keep it for the next start."""
    paths.write_quietly(_find_file(fingerprint), json.dumps(asdict(proof)))
