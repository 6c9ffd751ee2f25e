"""`raylaunch down`: Ray's launcher takes the cluster down, then every host is cleaned up and checked.

From the second cycle on, Ray's own `ray down` leaves the workers' containers running, and it always leaves the private
key that it lent to the head on the head's disk (Ray 2.60).
"""

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass

from raylaunch.base import console
from raylaunch.base.console import ProgressLine
from raylaunch.base.errors import ClusterError
from raylaunch.config.cluster_file import ClusterFile
from raylaunch.provision import artifacts, ray_state
from raylaunch.provision.container import CLUSTER_LABEL, name_volumes, runtime_of
from raylaunch.provision.doctor.table import name_hosts
from raylaunch.provision.host_shell import HostShell
from raylaunch.provision.ray_up import start_launcher
from raylaunch.provision.ssh import CommandResult

_LAUNCHER_TIMEOUT_S = 60.0
_LIST_TIMEOUT_S = 20.0
_LIST_SERVICES = """\
from raylaunch.serve.service_record import list_services
for one in list_services():
    if one.is_alive():
        print(one.port, one.models[0])"""
"""Runs in the head's container."""
_MOUNTS = "/tmp/ray_tmp_mount"
"""Where Ray's launcher keeps each cluster's file_mounts on a host."""


@dataclass(frozen=True, slots=True)
class Remains:
    """What a host still has of the cluster."""

    host: str
    left: tuple[str, ...] = ()
    unreachable: str = ""
    """ssh's message where the host could not be checked."""


def list_services(cluster: ClusterFile) -> dict[int, str]:
    """What the head serves now, port -> model; empty where the cluster is not up, or cannot be asked."""
    shell = HostShell.of(cluster)
    command = shell.runtime.execute(cluster.container_name, ["python3", "-c", _LIST_SERVICES])
    lines = shell.run(cluster.head_ip, command, timeout_s=_LIST_TIMEOUT_S).stdout.splitlines()
    return {int(port): model for port, _, model in (line.partition(" ") for line in lines)}


def down(cluster: ClusterFile) -> None:
    """Take the cluster down and check that nothing of it is left on the hosts or here.

    Raises:
        ClusterError: something is left, or a host could not be checked.
    """
    artifacts.check_owner(cluster)
    shell = HostShell.of(cluster)
    with console.waiting(f"{cluster.cluster_name}: checking every host"):
        before = shell.run_on_all(lambda host: inspect_remains(shell, host, clean=False))
    if not any(remains.left or remains.unreachable for remains in before.values()):
        forget(cluster)
        console.say(f"{cluster.cluster_name} is down: nothing of it is on {name_hosts(cluster.hosts)}")
        return
    if not before[cluster.head_ip].unreachable:
        _run_launcher(cluster)
    # The head first: its launcher would start the workers again.
    with console.waiting(f"{cluster.cluster_name}: removing what is left, and checking every host"):
        after = {cluster.head_ip: inspect_remains(shell, cluster.head_ip, clean=True)}
        after |= shell.run_on_all(lambda host: inspect_remains(shell, host, clean=True))
    raise_for(cluster, list(after.values()))
    forget(cluster)
    console.say(
        f"{cluster.cluster_name} is down: nothing of it is left on {name_hosts(cluster.hosts)}", style="bold green"
    )


def _run_launcher(cluster: ClusterFile) -> None:
    """Let Ray's launcher stop what it knows of; the cleaning does not depend on it."""
    with start_launcher(cluster, "down") as launcher, console.live_lines() as report:
        launcher.begin()
        began = time.monotonic()
        while launcher.is_alive() and (waited_s := time.monotonic() - began) < _LAUNCHER_TIMEOUT_S:
            report([ProgressLine(cluster.cluster_name, "stopping Ray and its containers", f"{waited_s:.0f} s")])
            time.sleep(0.2)


def make_script(cluster: ClusterFile, *, clean: bool) -> str:
    """The shell script that prints "left WHAT" for everything of the cluster on a host.

    It fails where the runtime's daemon does not answer; a host without the runtime (status 127) has no containers.
    GPU memory is held by processes, and Ray's processes are in the container.

    Args:
        clean: remove it first. The folder may hold files of root, which a container or sudo can remove.
    """
    runtime, name = runtime_of(cluster), cluster.cluster_name
    list_ids = runtime.list_ids.format(label=f"{CLUSTER_LABEL}={name}")
    remove_as_root = runtime.run_once.format(
        image=cluster.image, program="rm", arguments=f"-rf /mounts/{name}", mount=f"{_MOUNTS}:/mounts"
    )
    list_volumes = runtime.list_volumes.format(volumes=" ".join(name_volumes(cluster)))
    cleaning = f"""\
[ -z "$ids" ] || {runtime.remove.format(container="$ids")} >/dev/null
volumes=$({list_volumes})
[ -z "$volumes" ] || {runtime.remove_volumes.format(volumes="$volumes")} >/dev/null
rm -rf {_MOUNTS}/{name} 2>/dev/null || {remove_as_root} || sudo -n rm -rf {_MOUNTS}/{name}
rmdir {_MOUNTS} 2>/dev/null
"""
    return f"""\
failed=0
ids=$({list_ids}) || [ $? = 127 ] || failed=1
{cleaning if clean else ""}\
for id in $({list_ids}); do echo "left container $id"; done
for volume in $({list_volumes}); do echo "left volume $volume"; done
for id in $ids; do
    for process in $(grep -ls "$id" /proc/[0-9]*/cgroup | cut -d/ -f3); do echo "left process $process"; done
done
[ ! -e {_MOUNTS}/{name} ] || echo "left folder {_MOUNTS}/{name}"
exit $failed
"""


def inspect_remains(shell: HostShell, host: str, *, clean: bool) -> Remains:
    """What of the cluster is on a host, after removing it where `clean`."""
    return read_remains(host, shell.run(host, "sh -s", stdin=make_script(shell.cluster, clean=clean)))


def read_remains(host: str, result: CommandResult) -> Remains:
    """What is left by the output of `make_script`'s script."""
    if result.unreachable:
        return Remains(host, unreachable=result.failure.message)
    left = [line.removeprefix("left ") for line in result.stdout.splitlines() if line.startswith("left ")]
    if result.status != 0:
        lines = result.stderr.strip().splitlines()
        left.append(f"containers in an unknown state: {lines[-1] if lines else f'status {result.status}'}")
    return Remains(host, tuple(left))


def forget(cluster: ClusterFile) -> None:
    """Remove this machine's files of the running cluster; token and image layer stay for the next `up`."""
    folder = artifacts.folder_of(cluster.cluster_name)
    for name in ("ray", "keys"):
        shutil.rmtree(folder / name, ignore_errors=True)
    ray_state.withdraw(cluster)
    artifacts.release(cluster)


def raise_for(cluster: ClusterFile, remains: Sequence[Remains]) -> None:
    """Check that nothing is left.

    Raises:
        ClusterError: something is left, or a host could not be checked.
    """
    problems = [f"{found.host} cannot be checked: {found.unreachable}" for found in remains if found.unreachable]
    problems += [f"{found.host} still has {', '.join(found.left)}" for found in remains if found.left]
    if problems:
        raise ClusterError(
            f"{cluster.cluster_name} is not completely down: {'; '.join(problems)}",
            fix=f"fix that, then run `raylaunch down {cluster.shown_path}` again",
        )
