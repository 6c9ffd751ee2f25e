"""Plan which node sends which file to which nodes: pure functions of what each node has."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

CHUNKS_AT_MOST = 24
"""Most chunks that a node sends at once, over all files: bounds its memory at any link speed."""
_FILES_AT_ONCE = 3
"""Open files of a stream: one is being sent, the one before is still in the chain, one is ready to start."""
_WINDOW_AT_MOST = 4
"""Most concurrent chunks of one file between two nodes: they share the link, so more would only arrive later."""
_HUB_STREAMS = 4
"""Concurrent downloads from the hub, over all nodes (at least one per node, within CHUNKS_AT_MOST)."""


@dataclass(frozen=True)
class NodeFiles:
    """The files of a model that one node has."""

    complete: frozenset[str] = frozenset()
    """Files that are complete and verified."""
    parts: Mapping[str, int] = field(default_factory=dict)
    """Bytes of the partial files: each is a prefix of its file."""
    reaches_hub: bool = False

    def measure(self, name: str, size: int) -> int:
        """Bytes of the file that the node has."""
        return size if name in self.complete else min(self.parts.get(name, 0), size)

    def without(self, names: Set[str]) -> "NodeFiles":
        """The same without files that failed verification."""
        return replace(self, complete=self.complete - names)


@dataclass(frozen=True)
class PlannedTransfer:
    """One file, sent from its head along a chain of nodes."""

    name: str
    size: int
    head: str
    chain: tuple[str, ...]
    """Nodes that lack it, the one with the fewest bytes first: each forwards only what the next one lacks."""
    from_hub: bool = False
    """The head lacks it too, and downloads the missing bytes."""

    @property
    def nodes(self) -> tuple[str, ...]:
        """All nodes of the transfer, the head first."""
        return (self.head, *self.chain)


def plan_transfers(
    sizes: Mapping[str, int], node_files: Mapping[str, NodeFiles], *, has_hub: bool
) -> tuple[list[PlannedTransfer], list[str]]:
    """Transfers that complete every node, with each byte from the hub at most once; large files first.

    A file that a node has is sent from there. Each other file is downloaded by one node, which forwards it meanwhile;
    the downloads are divided evenly between the nodes, by bytes.

    Args:
        sizes: file -> bytes.
        node_files: node -> what it has; chains follow the order of the nodes.
        has_hub: whether the hub lists these files.

    Returns:
        The transfers, and the files that no node has or can download.
    """
    nodes = list(node_files)
    loads = dict.fromkeys(nodes, 0)
    transfers: list[PlannedTransfer] = []
    nowhere: list[str] = []
    for name, size in sorted(sizes.items(), key=lambda entry: (-entry[1], entry[0])):
        lacking = [node for node in nodes if name not in node_files[node].complete]
        if not lacking:
            continue
        holders = [node for node in nodes if name in node_files[node].complete]
        askers = [node for node in nodes if node_files[node].reaches_hub] if has_hub and not holders else []
        if not holders and not askers:
            nowhere.append(name)
            continue
        most = max((node_files[node].measure(name, size) for node in askers), default=0)
        heads = holders or [node for node in askers if node_files[node].measure(name, size) == most]
        head = min(heads, key=lambda node: (loads[node], nodes.index(node)))
        loads[head] += size
        rest = [node for node in lacking if node != head]
        transfers.append(
            PlannedTransfer(name, size, head, order_chain(head, rest, nodes, node_files, name), from_hub=not holders)
        )
    return transfers, nowhere


def order_chain(
    head: str, rest: Sequence[str], nodes: Sequence[str], node_files: Mapping[str, NodeFiles], name: str
) -> tuple[str, ...]:
    """The nodes after `head`: those with the fewest bytes first, else in ring order, to share the links."""
    at = nodes.index(head)
    return tuple(
        sorted(rest, key=lambda node: (node_files[node].parts.get(name, 0), (nodes.index(node) - at) % len(nodes)))
    )


def measure_missing(sizes: Mapping[str, int], present: NodeFiles) -> int:
    """Bytes that a node lacks."""
    return sum(size - present.measure(name, size) for name, size in sizes.items())


def count_streams(heads: int, lanes: int, *, from_hub: bool) -> int:
    """Files that each of `heads` nodes sends at once."""
    return max(1, _HUB_STREAMS // heads) if from_hub else lanes


def count_files(streams: int) -> int:
    """Files of one stream that are open at once."""
    return max(1, min(_FILES_AT_ONCE, CHUNKS_AT_MOST // streams))


def measure_window(streams: int) -> int:
    """Concurrent chunks of one file between two nodes, so that all files together stay within CHUNKS_AT_MOST."""
    return max(1, min(_WINDOW_AT_MOST, CHUNKS_AT_MOST // (streams * count_files(streams))))
