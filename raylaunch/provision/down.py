"""`raylaunch down`: Ray's launcher takes the cluster down, then every host is swept and looked at.

From the second cycle on, Ray's own `ray down` leaves the workers' containers running, and it always leaves the private
key that it lent to the head on the head's disk (Ray 2.60).
"""

import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from raylaunch.base import console
from raylaunch.base.errors import ClusterError
from raylaunch.config.cluster_file import ClusterFile
from raylaunch.provision import artifacts
from raylaunch.provision.host_shell import HostShell
from raylaunch.provision.ray_up import start_launcher
from raylaunch.provision.ssh import read_failure
from raylaunch.provision.up import LABEL

_LAUNCHER_TIMEOUT_S = 60.0
_LOOK = """\
name=$1 mounts=$2 label=$3 sweep=$4
ids=$(docker ps -aq --no-trunc --filter label=$label)
if [ "$sweep" = yes ]; then
    [ -z "$ids" ] || docker rm -f $ids >/dev/null
    if ! rm -rf "$mounts" 2>/dev/null; then
        docker run --rm --entrypoint rm -v /tmp/ray_tmp_mount:/mounts "$5" -rf "/mounts/$name" ||
            sudo -n rm -rf "$mounts"
    fi
    rmdir /tmp/ray_tmp_mount 2>/dev/null
fi
[ -z "$ids" ] || [ "$sweep" = no ] || echo "swept $(echo $ids | wc -w)"
for id in $(docker ps -aq --no-trunc --filter label=$label); do echo "left container $id"; done
for id in $ids; do
    for process in $(grep -ls "$id" /proc/[0-9]*/cgroup | cut -d/ -f3); do echo "left process $process"; done
done
[ ! -e "$mounts" ] || echo "left folder $mounts"
true
"""
"""Sweeps where it is told to, and tells what is left. GPU memory is held by processes, Ray's are in the container."""


@dataclass(frozen=True, slots=True)
class Remains:
    """What a look at a host found of the cluster."""

    host: str
    left: tuple[str, ...] = ()
    unreachable: str = ""
    """ssh's words where it could not be looked at."""


def down(cluster: ClusterFile) -> None:
    """Take the cluster down and see that nothing of it is left on the hosts or here.

    Raises:
        ClusterError: something is left, or a host could not be looked at.
    """
    shell = HostShell.of(cluster)
    before = shell.run_on_all(lambda host: look(shell, host, sweep=False))
    if not any(remains.left or remains.unreachable for remains in before.values()):
        forget(cluster)
        console.say(f"{cluster.cluster_name} is down: nothing of it is on {', '.join(cluster.hosts)}")
        return
    if not before[cluster.head_ip].unreachable:
        _take_down(cluster)
    # The head first: the launcher on it would bring its workers back.
    after = {cluster.head_ip: look(shell, cluster.head_ip, sweep=True)}
    after |= shell.run_on_all(lambda host: look(shell, host, sweep=True))
    raise_for(cluster, list(after.values()))
    forget(cluster)
    console.say(
        f"{cluster.cluster_name} is down: no container, process, key or mount folder of it is left on "
        f"{', '.join(cluster.hosts)}",
        style="bold green",
    )


def _take_down(cluster: ClusterFile) -> None:
    """Let Ray's launcher stop what it knows of; the sweep does not depend on it."""
    with start_launcher(cluster, "down") as launcher, console.live_lines() as report:
        launcher.order()
        began = time.monotonic()
        while launcher.is_alive() and (waited_s := time.monotonic() - began) < _LAUNCHER_TIMEOUT_S:
            report([f"{cluster.cluster_name}: stopping Ray and its containers | {waited_s:.0f} s"])
            time.sleep(0.2)


def look(shell: HostShell, host: str, *, sweep: bool) -> Remains:
    """See what of the cluster is on a host.

    Args:
        sweep: remove it first.
    """
    cluster = shell.cluster
    name = cluster.cluster_name
    words = [name, f"/tmp/ray_tmp_mount/{name}", f"{LABEL}={name}", "yes" if sweep else "no", cluster.image]
    answer = shell.run(host, f"sh -s -- {' '.join(words)}", stdin=_LOOK, timeout_s=60)
    if answer.unreachable:
        return Remains(host, unreachable=read_failure(answer.stderr).said)
    left = [line.removeprefix("left ") for line in answer.stdout.splitlines() if line.startswith("left ")]
    if answer.status != 0 or "Cannot connect to the Docker daemon" in answer.stderr:
        left.append(f"what docker has: {answer.stderr.strip().splitlines()[-1]}")
    return Remains(host, tuple(left))


def forget(cluster: ClusterFile) -> None:
    """Remove what this machine kept for the running cluster; token and image layer stay for the next `up`."""
    folder = artifacts.folder_of(cluster.cluster_name)
    for name in ("ray", "keys"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for kind in ("state", "lock"):  # of a plain `ray up`: a stale one keeps the next from starting workers (Ray 2.60)
        (Path(os.environ.get("RAY_TMPDIR") or "/tmp", "ray") / f"cluster-{cluster.cluster_name}.{kind}").unlink(
            missing_ok=True
        )


def raise_for(cluster: ClusterFile, remains: Sequence[Remains]) -> None:
    """Tell what is left.

    Raises:
        ClusterError: anything, or a host that could not be looked at.
    """
    problems = [f"{found.host} cannot be looked at: {found.unreachable}" for found in remains if found.unreachable]
    problems += [f"{found.host} still has {', '.join(found.left)}" for found in remains if found.left]
    if problems:
        raise ClusterError(
            f"{cluster.cluster_name} is not all down: {'; '.join(problems)}",
            fix=f"mend that, then `raylaunch down {cluster.path}` again",
        )
