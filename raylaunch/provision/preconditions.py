"""What `up` requires of the hosts before it changes anything, and why Ray's launcher gave a host up."""

import re
from dataclasses import dataclass, replace
from enum import StrEnum

from raylaunch.base import console
from raylaunch.base.errors import ChecksFailedError
from raylaunch.config.cluster_file import ClusterFile
from raylaunch.provision.container import CLUSTER_LABEL, runtime_of
from raylaunch.provision.host_shell import HostShell
from raylaunch.provision.ray_up_log import LauncherFailure, read_failure
from raylaunch.provision.ssh import CommandResult

_LISTED_GPU = re.compile(r"GPU (\d+):.*\(UUID: ([^)]+)\)")
"""A line of `nvidia-smi -L`."""
_LIST_ADDRESSES = r"ip -o addr 2>/dev/null | sed -n 's|.* inet6* \([^/ ]*\).*|\1|p' | tr '\n' ' '"


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
    """With which Ray has to come up there: those of nvidia-smi's list that run_options give its container."""
    container: ContainerState
    addresses: frozenset[str] = frozenset()
    """Of all its interfaces: Ray may know it by another one than the cluster file."""


def make_inspection(cluster: ClusterFile) -> str:
    """The shell command that prints a host's number of GPUs, label and state of its container, GPUs and addresses."""
    template = f'{{{{index .Config.Labels "{CLUSTER_LABEL}"}}}}|{{{{.State.Running}}}}'
    inspect = runtime_of(cluster).inspect(cluster.container_name, template)
    return (
        f"list=$(nvidia-smi -L 2>/dev/null | grep '^GPU '); printf '%s' \"$list\" | grep -c '^GPU '; "
        f'{inspect} 2>/dev/null; printf \'%s\\n\' "$list"; echo "addresses $({_LIST_ADDRESSES})"'
    )


def read_inspection(result: CommandResult, cluster: ClusterFile, host: str = "") -> HostState:
    """A host's state by the output of `make_inspection`."""
    if result.unreachable:
        return HostState(0, ContainerState.UNREACHABLE)
    count, *lines = result.stdout.strip().splitlines() or [""]
    listed = [(int(found[1]), found[2]) for line in lines if (found := _LISTED_GPU.match(line))]
    listed = listed or [(index, "") for index in range(int(count) if count.isdigit() else 0)]
    addresses = [line.removeprefix("addresses ") for line in lines if line.startswith("addresses ")]
    own = [line for line in lines if not line.startswith(("GPU ", "addresses")) and line.strip()]
    states = {
        "": ContainerState.NONE,
        f"{cluster.cluster_name}|true": ContainerState.OURS,
        f"{cluster.cluster_name}|false": ContainerState.ENDED,
    }
    return HostState(
        gpus=cluster.gpu_request_of(host).count_expected(listed) if listed else 0,
        container=states.get(own[0].strip() if own else "", ContainerState.FOREIGN),
        addresses=frozenset(" ".join(addresses).split()),
    )


def inspect_host(shell: HostShell, host: str) -> HostState:
    """What a host has, without a change to it."""
    return read_inspection(shell.run(host, make_inspection(shell.cluster), timeout_s=20), shell.cluster, host)


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
