"""Who sends what to whom: pure functions over what each node has."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

CHUNKS_AT_MOST = 24
"""Chunks on their way out of a node, of all files together: what bounds its memory, however fast the link is."""
_FILES_AT_ONCE = 3
"""Files of a stream that are open: one is sent, one before it still travels down the chain, one is ready to go."""
_WINDOW_AT_MOST = 4
"""Chunks of one file between two nodes: they share the link, so more of them only reach the next node later."""
_HUB_STREAMS = 4
"""Files asked of the hub at once, by all nodes together (each node asks for one at least, but for CHUNKS_AT_MOST)."""


@dataclass(frozen=True)
class NodeFiles:
    """What one node has of a model."""

    complete: frozenset[str] = frozenset()
    """Files that are there and right."""
    parts: Mapping[str, int] = field(default_factory=dict)
    """Bytes of the others: each is a prefix of its file."""
    reaches_hub: bool = False

    def measure(self, name: str, size: int) -> int:
        """Bytes of the file that are here."""
        return size if name in self.complete else min(self.parts.get(name, 0), size)

    def without(self, names: Set[str]) -> "NodeFiles":
        """The same without files that only looked right."""
        return replace(self, complete=self.complete - names)


@dataclass(frozen=True)
class PlannedTransfer:
    """One file's way: from its head down a chain of nodes."""

    name: str
    size: int
    head: str
    chain: tuple[str, ...]
    """Nodes that lack it, the one with the fewest bytes first: each hands on only what the next one lacks."""
    from_hub: bool = False
    """The head lacks it too, and asks the hub for its part."""

    @property
    def nodes(self) -> tuple[str, ...]:
        """All that take part, the head first."""
        return (self.head, *self.chain)


def plan_transfers(
    sizes: Mapping[str, int], node_files: Mapping[str, NodeFiles], *, has_hub: bool
) -> tuple[list[PlannedTransfer], list[str]]:
    """Moves after which every node has every file, each byte from the hub at most once; large files first.

    A file that somebody has comes from there. Of the others each is asked of the hub by one node, and travels on from
    it while it comes: the nodes share the hub's files evenly, by bytes.

    Args:
        sizes: file -> bytes.
        node_files: node -> what it has; the order of the nodes is that of the chains.
        has_hub: whether the hub can be asked for these files at all.

    Returns:
        The transfers, and the files that nobody has and no node can ask for.
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
    """The nodes behind `head`: those with the fewest bytes first, else around the ring, to share the links."""
    at = nodes.index(head)
    return tuple(
        sorted(rest, key=lambda node: (node_files[node].parts.get(name, 0), (nodes.index(node) - at) % len(nodes)))
    )


def measure_missing(sizes: Mapping[str, int], present: NodeFiles) -> int:
    """Bytes that a node still needs."""
    return sum(size - present.measure(name, size) for name, size in sizes.items())


def count_streams(heads: int, lanes: int, *, from_hub: bool) -> int:
    """Files that each of `heads` nodes sends at once."""
    return max(1, _HUB_STREAMS // heads) if from_hub else lanes


def count_files(streams: int) -> int:
    """Files of one stream that are open at once."""
    return max(1, min(_FILES_AT_ONCE, CHUNKS_AT_MOST // streams))


def measure_window(streams: int) -> int:
    """Chunks of one file under way between two nodes, so that all files together keep to CHUNKS_AT_MOST."""
    return max(1, min(_WINDOW_AT_MOST, CHUNKS_AT_MOST // (streams * count_files(streams))))
