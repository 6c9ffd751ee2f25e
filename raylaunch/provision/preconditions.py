"""What `up` asks of the hosts: fit before anything is changed, and why one failed that Ray's launcher gave up."""

from collections.abc import Callable
from dataclasses import dataclass

from raylaunch.base import console
from raylaunch.base.errors import ChecksFailedError
from raylaunch.config.cluster_file import ClusterFile
from raylaunch.provision.host_shell import HostShell
from raylaunch.provision.ray_up_log import LauncherFailure, read_failure


@dataclass(frozen=True, slots=True)
class HostState:
    """A host before anything is done to it."""

    gpus: int
    """As its own nvidia-smi tells; 0 without one."""
    container: str
    """"none", "ours" (running), "ended" (ours, not running), "foreign" (somebody else's), or "unreachable"."""


def examine(cluster: ClusterFile, look: Callable[[str], HostState], *, with_archive: bool) -> None:
    """Have `doctor` look at the hosts; only what is not fit is told.

    Args:
        look: tells how a host is now. Containers of ours that an earlier run left, or that a running head's launcher
            makes at this moment, are no reason to stop.
        with_archive: the image is brought along, so that it need not be there.

    Raises:
        ChecksFailedError: at least one host is not fit.
    """
    from raylaunch.provision.doctor import diagnose
    from raylaunch.provision.doctor.verdicts import State

    def mends_itself(check: str, host: str) -> bool:
        return (check == "image" and with_archive) or (
            check == "container" and look(host).container in ("ours", "ended")
        )

    diagnosis = diagnose.diagnose(cluster)
    told = [
        verdict
        for verdict in diagnosis.verdicts
        if verdict.state is not State.OK and not mends_itself(verdict.check, verdict.host)
    ]
    red = [verdict for verdict in told if verdict.state is State.RED]
    for verdict in red or told:
        console.say(f"{verdict.host}: {verdict.check}: {verdict.what}" + (f"; {verdict.fix}" if verdict.fix else ""))
    if red:
        raise ChecksFailedError(
            f"{len(red)} check{'s' if len(red) > 1 else ''} of {cluster.cluster_name}'s hosts failed; nothing changed",
            fix=f"mend the above; `raylaunch doctor {cluster.path}` looks again, with --fix it mends what is safe",
        )
    console.say(f"checked {len(cluster.hosts)} hosts in {diagnosis.seconds:.1f} s: fit")


def find_cause(shell: HostShell, host: str, log: str) -> LauncherFailure:
    """Why Ray's launcher gave a host up: as its docker says now, where that does not answer; else by the log.

    The log tells what one command met at its moment: of a daemon that is being ended, that may be an EOF.
    """
    answer = shell.run(host, "docker version", timeout_s=10)
    failure = read_failure(log, host)
    if answer.status == 0 or answer.unreachable:
        return failure
    now = read_failure(answer.stderr or answer.stdout, host)
    return LauncherFailure(now.what, now.fix, failure.excerpt)
