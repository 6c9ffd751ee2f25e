"""Parse what Ray's launcher prints: the step it is at, and why it failed."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from raylaunch.explain.signatures import find_heaviest

FAILED = "update-failed"
"""Ray's tag of a node that its launcher gave up."""
STAGES: Mapping[str, str] = {
    "uninitialized": "starting",
    "waiting-for-ssh": "waiting for ssh",
    "syncing-files": "copying files",
    "setting-up": "image, container, Ray",
    "up-to-date": "Ray started, waiting for the node",
    FAILED: "failed",
}
"""Ray's tag of a node -> its text."""
UNDER_WAY = ("waiting-for-ssh", "syncing-files", "setting-up")
"""Tags of a node that its launcher is working on."""
_STEPS = (
    *("waiting for ssh", "copying files", "copying files", "preparing the image"),
    *("starting the container", "starting the container", "starting Ray"),
)
"""Of Ray's "[1/7]" to "[7/7]"."""
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_SOURCES = frozenset({"ssh", "docker", "ray", "python", "kernel"})
"""Signatures of what may fail while hosts are set up."""
_CHATTER = re.compile(
    r"Full command is|Running `|Shared connection|^\s*File \"|^\s{4}|Traceback|Permanently added|Exception details"
    r"|Writing cluster state|^!!!|: !!!|click\.exceptions|New status|Full traceback|LogTimer|^\s*\^+"
)


@dataclass(frozen=True, slots=True)
class LauncherFailure:
    """Why Ray's launcher gave a host up."""

    what: str
    fix: str
    excerpt: tuple[str, ...]


def read_stage(log: str) -> str:
    """The step that the launcher is at with its one host."""
    found = re.findall(r"\[([1-7])/7\]", _COLOUR.sub("", log))
    return _STEPS[int(found[-1]) - 1] if found else "starting"


def read_failure(log: str, host: str = "") -> LauncherFailure:
    """The cause of the last failure in a launcher's log.

    Args:
        host: address, for the advice where no cause is known.
    """
    text = _COLOUR.sub("", log).replace("\r", "")
    before, mark, _ = text.rpartition(f"New status: {FAILED}")
    lines = (before if mark else text).splitlines()[-80:]
    words = [_strip_prefix(line) for line in lines if line.strip() and not _CHATTER.search(line)]
    excerpt = tuple(words[-8:])
    if finding := find_heaviest(lines[-60:], _SOURCES):
        return LauncherFailure(finding.cause, finding.fix, excerpt)
    last = next((word for word in reversed(words) if re.search(r"[Ee]rror|[Ff]ailed|denied|cannot", word)), "")
    return LauncherFailure(
        last or (words[-1] if words else "it printed no message"),
        f"the lines above are from {host or 'there'}",
        excerpt,
    )


def _strip_prefix(line: str) -> str:
    """A line without the launcher's time, level and place."""
    return re.sub(r"^\d{4}-\d\d-\d\d \S+\s+\w+ \S+:\d+ -- ", "", line).strip()[:200]
