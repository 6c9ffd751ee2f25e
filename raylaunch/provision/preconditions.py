"""What `up` requires of the hosts before it changes anything, and why Ray's launcher gave a host up."""

from dataclasses import dataclass, replace
from enum import StrEnum

from raylaunch.base import console
from raylaunch.base.errors import ChecksFailedError
from raylaunch.config.cluster_file import ClusterFile
from raylaunch.provision.container import CLUSTER_LABEL, runtime_of
from raylaunch.provision.host_shell import HostShell
from raylaunch.provision.ray_up_log import LauncherFailure, read_failure
from raylaunch.provision.ssh import CommandResult


class ContainerState(StrEnum):
    """The container of the cluster's name on a host."""

    NONE = "none"
    OURS = "ours"
    """Running."""
    ENDED = "ended"
    """Ours, not running."""
    FOREIGN = "foreign"
    """Not started by `raylaunch up`."""
    UNREACHABLE = "unreachable"


@dataclass(frozen=True, slots=True)
class HostState:
    """A host before anything is changed on it."""

    gpus: int
    """As its nvidia-smi lists them; 0 without nvidia-smi."""
    container: ContainerState


def make_inspection(cluster: ClusterFile) -> str:
    """The shell command that prints a host's number of GPUs, then label and state of its container."""
    template = f'{{{{index .Config.Labels "{CLUSTER_LABEL}"}}}}|{{{{.State.Running}}}}'
    inspect = runtime_of(cluster).inspect(cluster.container_name, template)
    return f"nvidia-smi -L 2>/dev/null | grep -c '^GPU '; {inspect} 2>/dev/null; true"


def read_inspection(result: CommandResult, cluster: ClusterFile) -> HostState:
    """A host's state by the output of `make_inspection`."""
    if result.unreachable:
        return HostState(0, ContainerState.UNREACHABLE)
    count, _, container = result.stdout.strip().partition("\n")
    states = {
        "": ContainerState.NONE,
        f"{cluster.cluster_name}|true": ContainerState.OURS,
        f"{cluster.cluster_name}|false": ContainerState.ENDED,
    }
    return HostState(int(count) if count.isdigit() else 0, states.get(container.strip(), ContainerState.FOREIGN))


def inspect_host(shell: HostShell, host: str) -> HostState:
    """What a host has, without a change to it."""
    return read_inspection(shell.run(host, make_inspection(shell.cluster), timeout_s=20), shell.cluster)


def check_hosts(shell: HostShell, *, with_archive: bool) -> None:
    """Run doctor's checks and print what is not ok.

    A container that an earlier run left, or that a running head's launcher is creating, is no reason to stop.

    Args:
        with_archive: the image comes from a file, so it may be missing.

    Raises:
        ChecksFailedError: at least one check failed.
    """
    from raylaunch.provision.doctor import diagnose
    from raylaunch.provision.doctor.table import make_table
    from raylaunch.provision.doctor.verdicts import Verdict, VerdictState

    def is_handled_by_up(verdict: Verdict) -> bool:
        if verdict.state is VerdictState.OK:
            return False
        return (verdict.check == "image" and with_archive) or (
            verdict.check == "container"
            and inspect_host(shell, verdict.host).container in (ContainerState.OURS, ContainerState.ENDED)
        )

    cluster = shell.cluster
    with console.waiting("checking every host, up to 30 s"):
        diagnosis = diagnose.diagnose(cluster)
    verdicts = [verdict for verdict in diagnosis.verdicts if not is_handled_by_up(verdict)]
    diagnosis = replace(diagnosis, verdicts=tuple(verdicts))
    for state, line in make_table(diagnosis, width=console.find_width()):
        console.say_state(state, line)
    if failed := [verdict for verdict in verdicts if verdict.state is VerdictState.FAILED]:
        raise ChecksFailedError(
            f"{len(failed)} check{'s' if len(failed) > 1 else ''} of {cluster.cluster_name}'s hosts failed; nothing "
            "was changed",
            fix=f"fix the above; `raylaunch doctor {cluster.shown_path} --fix` runs the safe fixes",
        )


def find_cause(shell: HostShell, host: str, log: str) -> LauncherFailure:
    """Why Ray's launcher gave a host up: the container runtime's present error if it has one, else by the log.

    The log holds what one command met at its moment; for a daemon that is shutting down that may be an EOF.
    """
    result = shell.run(host, shell.runtime.version, timeout_s=10)
    failure = read_failure(log, host)
    if result.status == 0 or result.unreachable:
        return failure
    now = read_failure(result.stderr or result.stdout, host)
    return LauncherFailure(now.what, now.fix, failure.excerpt)
