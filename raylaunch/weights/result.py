"""What a pull did, and the line that tells it."""

from dataclasses import dataclass, field

from raylaunch.weights.progress import describe_seconds


@dataclass
class PullResult:
    """What a pull did."""

    repo: str
    folder: str
    source: str
    commit: str | None
    nodes: tuple[str, ...]
    total_bytes: int
    """Of the model, on each node."""
    files: int
    left_out_files: int
    left_out_bytes: int
    from_hub_bytes: int = 0
    from_peers_bytes: int = 0
    seconds: float = 0.0
    already: bool = False
    """Every node had everything."""
    shared: dict[str, str] = field(default_factory=dict)
    """Node -> node whose storage it shares."""


def describe(result: PullResult) -> str:
    """The last line of a pull: what is where, and what it cost."""
    nodes = "this machine" if len(result.nodes) == 1 else f"{len(result.nodes)} nodes"
    what = (
        f"{result.repo} is whole in {result.folder} on {nodes}: {result.files} files, {result.total_bytes / 1e9:.2f} GB"
    )
    if result.already:
        return f"{what}; nothing had to move"
    left_out = f"; left out {result.left_out_bytes / 1e9:.2f} GB" if result.left_out_bytes else ""
    return (
        f"{what} in {describe_seconds(result.seconds)}; {result.from_hub_bytes / 1e9:.2f} GB asked of the hub, "
        f"{result.from_peers_bytes / 1e9:.2f} GB from node to node{left_out}"
    )
