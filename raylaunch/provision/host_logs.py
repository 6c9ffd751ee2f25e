"""Fetch the logs of all hosts of a cluster, whether Ray runs or not: the kernel's, docker's, the container's, Ray's."""

import contextlib
import importlib.resources
import re
import secrets
import shlex
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from raylaunch.base import console
from raylaunch.base.errors import ClusterError
from raylaunch.config.cluster_file import ClusterFile
from raylaunch.explain.line_heads import LogOrigin
from raylaunch.explain.read import LogInput, open_file
from raylaunch.provision.container import name_volumes
from raylaunch.provision.host_shell import HostShell

_TIMEOUT_S = 90.0
_ASK_CLOCK = "date +%s.%N; date +%z; cut -d' ' -f1 /proc/uptime"
_MOST_BYTES = 8 << 20
"""Of each log, from its end."""
_SKEW_S = 2.0
"""Clocks further apart are reported."""


@dataclass(frozen=True, slots=True)
class HostClock:
    """A host's clock, against this machine's."""

    ahead_s: float
    utc_offset_s: int
    booted_at: float | None
    """Seconds since 1970 on the host's clock."""


@contextlib.contextmanager
def fetch_logs(cluster: ClusterFile) -> Iterator[list[LogInput]]:
    """The logs of all hosts, in a folder that is removed afterwards; hosts that cannot be reached are reported.

    Raises:
        ClusterError: no host can be reached.
    """
    shell = HostShell.of(cluster)
    with tempfile.TemporaryDirectory(prefix="raylaunch-logs-") as folder:
        found = shell.run_on_all(lambda host: _fetch(shell, host, Path(folder)))
        lost = {host: message for host, message in found.items() if isinstance(message, str)}
        for host, message in lost.items():
            console.say(f"{host} cannot be reached, its logs are missing: {message}", style="yellow")
        if len(lost) == len(cluster.hosts):
            raise ClusterError(
                f"{cluster.cluster_name}: no host can be reached: {next(iter(lost.values()))}",
                fix=f"`raylaunch doctor {cluster.shown_path}`",
            )
        yield [source for sources in found.values() if not isinstance(sources, str) for source in sources]


def _fetch(shell: HostShell, host: str, folder: Path) -> list[LogInput] | str:
    """A host's logs, or ssh's message."""
    mark = f"=={secrets.token_hex(8)}=="
    cluster = shell.cluster
    words = (mark, cluster.container_name, shell.runtime.program, str(_MOST_BYTES))
    arguments = (*words, *name_volumes(cluster), cluster.image)
    script = (importlib.resources.files("raylaunch.provision") / "host_logs.sh").read_text()
    began = time.time()
    asked = shell.run(host, _ASK_CLOCK, timeout_s=_TIMEOUT_S)
    if asked.unreachable:
        return asked.failure.message
    clock = read_clock(asked.stdout, began, time.time())
    result = shell.run(host, f"bash -s -- {shlex.join(arguments)}", stdin=script, timeout_s=_TIMEOUT_S)
    return result.failure.message if result.unreachable else list(_write_logs(result.stdout, mark, host, folder, clock))


def _write_logs(output: str, mark: str, host: str, folder: Path, clock: HostClock) -> Iterator[LogInput]:
    """Each section of the script's output as a file, with what is known about the host's clock."""
    parts = output.split(f"\n{mark} ")[1:]
    sections = {name: text for name, _, text in (part.partition("\n") for part in parts)}
    zone = read_zone(sections.pop("zone", "").strip())
    if abs(clock.ahead_s) > _SKEW_S:
        ahead = f"{abs(clock.ahead_s):.1f} s {'ahead of' if clock.ahead_s > 0 else 'behind'}"
        console.say(f"{host}: its clock is {ahead} this machine's; times are corrected", style="yellow")
    for number, (name, text) in enumerate(sections.items()):
        if not text.strip():
            continue
        path = folder / f"{re.sub(r'[^0-9A-Za-z.]', '_', host)}-{number}.log"
        path.write_text(text, errors="replace")
        is_inside = name.startswith("/")
        origin = LogOrigin(
            name=f"{host}:{name}",
            host=host,
            utc_offset_s=zone if is_inside and zone is not None else clock.utc_offset_s,
            clock_ahead_s=clock.ahead_s,
            boot_at=clock.booted_at,
            changed_at=time.time(),
        )
        yield open_file(path, origin)


def read_clock(text: str, began: float, ended: float) -> HostClock:
    """A host's clock from its answer to _ASK_CLOCK.

    Args:
        began: when ssh was started, and `ended` when it had answered, seconds since 1970: what is less than half the
            time between them is no difference.
    """
    lines = [*text.split(), "", "", ""]
    try:
        now = float(lines[0])
    except ValueError:
        return HostClock(0.0, 0, None)
    ahead_s = now - (began + ended) / 2
    uptime = re.fullmatch(r"\d+\.\d+", lines[2])
    booted_at = now - float(uptime[0]) if uptime else None
    return HostClock(ahead_s if abs(ahead_s) > (ended - began) / 2 else 0.0, read_zone(lines[1]) or 0, booted_at)


def read_zone(text: str) -> int | None:
    """Seconds east of UTC from "+0130", or None."""
    found = re.fullmatch(r"([+-])(\d\d):?(\d\d)", text)
    return None if found is None else (-1 if found[1] == "-" else 1) * (int(found[2]) * 3600 + int(found[3]) * 60)
