"""What Ray's launcher prints, read: how far it is, and why it failed."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

FAILED = "update-failed"
"""Ray's tag of a node that its launcher gave up."""
STAGES: Mapping[str, str] = MappingProxyType(
    {
        "uninitialized": "beginning",
        "waiting-for-ssh": "waiting for ssh",
        "syncing-files": "copying files",
        "setting-up": "image, container, Ray",
        "up-to-date": "Ray started, waiting for the node",
        FAILED: "failed",
    }
)
"""Ray's tags of a node -> in words."""
UNDER_WAY = ("waiting-for-ssh", "syncing-files", "setting-up")
"""Those of a node that its launcher is busy with."""
_STEPS = MappingProxyType(
    {
        "1": "waiting for ssh",
        "2": "copying files",
        "3": "copying files",
        "4": "seeing to the image",
        "5": "starting the container",
        "6": "starting the container",
        "7": "starting Ray",
    }
)
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_CAUSES = (
    (r"Permission denied \(", "ssh refuses the key", "is the public key in that user's ~/.ssh/authorized_keys?"),
    (r"Connection refused", "ssh is refused: no sshd there", "on that host: systemctl start ssh"),
    (r"No route to host|Connection timed out|Operation timed out|wait_ready timeout", "it does not answer to ssh", ""),
    (r"Could not resolve hostname", "its name does not resolve", "use an address in the cluster file"),
    (r"Cannot connect to the Docker daemon", "docker's daemon does not run", "on that host: systemctl start docker"),
    (r"permission denied while trying to connect to the Docker", "the user may not use docker",
     "on that host: sudo usermod -aG docker $USER, and log in anew"),
    (r"docker: (?:command )?not found", "docker is not installed", "https://docs.docker.com/engine/install"),
    (r"[Nn]o space left on device", "its disk is full", "on that host: docker system df"),
    (r"pull access denied|manifest unknown|Unable to find image|No such image", "the image is not there",
     "docker pull it, or `raylaunch up --image-archive FILE`"),
    (r"could not select device driver|nvidia-container|unknown runtime", "docker there cannot hand out GPUs",
     "install NVIDIA's container toolkit there, and restart docker"),
    (r"container name .* is already in use", "a container of that name is there", "on that host: docker ps -a"),
    (r"[Aa]ddress already in use", "a port of Ray's is taken", "on that host: ss -ltnp"),
    (r"Version mismatch|version mismatch", "another version of Ray or Python than the head's", "same image everywhere"),
    (r"bad interpreter|ModuleNotFoundError|No module named", "the image lacks something", "use docker/Dockerfile's"),
)  # fmt: skip
_CHATTER = re.compile(
    r"Full command is|Running `|Shared connection|^\s*File \"|^\s{4}|Traceback|Permanently added|Exception details"
    r"|Writing cluster state|^!!!|: !!!|click\.exceptions|New status|Full traceback|LogTimer|^\s*\^+"
)


@dataclass(frozen=True, slots=True)
class LauncherFailure:
    """Why a host could not be brought in."""

    what: str
    fix: str
    excerpt: tuple[str, ...]


def read_stage(log: str) -> str:
    """The step that the launcher is at with its one host, in words."""
    found = re.findall(r"\[(\d)/7\]", _COLOUR.sub("", log))
    return _STEPS[found[-1]] if found else "beginning"


def read_failure(log: str, host: str = "") -> LauncherFailure:
    """The cause of the last failure in a launcher's log.

    Args:
        host: address; lines that name another host are passed over. "" takes all.
    """
    text = _COLOUR.sub("", log).replace("\r", "")
    before, mark, _ = text.rpartition(f"New status: {FAILED}")
    lines = (before if mark else text).splitlines()[-80:]
    words = [_strip_prefix(line) for line in lines if line.strip() and not _CHATTER.search(line)]
    excerpt = tuple(words[-8:])
    tail = "\n".join(lines[-60:])
    for pattern, what, fix in _CAUSES:
        if re.search(pattern, tail):
            return LauncherFailure(what, fix, excerpt)
    last = next((word for word in reversed(words) if re.search(r"[Ee]rror|[Ff]ailed|denied|cannot", word)), "")
    return LauncherFailure(
        last or (words[-1] if words else "it said nothing"), f"the lines above are from {host or 'there'}", excerpt
    )


def _strip_prefix(line: str) -> str:
    """Without the launcher's own time, level and place."""
    return re.sub(r"^\d{4}-\d\d-\d\d \S+\s+\w+ \S+:\d+ -- ", "", line).strip()[:200]
