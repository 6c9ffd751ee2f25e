"""What `up` asks of the hosts: fit before anything is changed, and the same image on all of them once they are in."""

from collections.abc import Mapping
from dataclasses import dataclass

from raylaunch import output
from raylaunch.clusterfile import ClusterFile
from raylaunch.errors import ChecksFailedError, ClusterError
from raylaunch.hostshell import HostShell


@dataclass(frozen=True, slots=True)
class HostState:
    """A host before anything is done to it."""

    gpus: int
    """As its own nvidia-smi tells; 0 without one."""
    container: str
    """"none", "ours" (running), "ended" (ours, not running), "foreign" (somebody else's), or "unreachable"."""


def examine(cluster: ClusterFile, states: Mapping[str, HostState], *, with_archive: bool) -> None:
    """Have `doctor` look at the hosts; only what is not fit is told.

    Args:
        states: containers of ours that an earlier run left are removed, and so no reason to stop.
        with_archive: the image is brought along, so that it need not be there.

    Raises:
        ChecksFailedError: at least one host is not fit.
    """
    from raylaunch.hosts import doctor
    from raylaunch.hosts.verdicts import State

    def mends_itself(check: str, host: str) -> bool:
        return (check == "image" and with_archive) or (
            check == "container" and host in states and states[host].container in ("ours", "ended")
        )

    diagnosis = doctor.diagnose(cluster)
    told = [
        verdict
        for verdict in diagnosis.verdicts
        if verdict.state is not State.OK and not mends_itself(verdict.check, verdict.host)
    ]
    red = [verdict for verdict in told if verdict.state is State.RED]
    for verdict in red or told:
        output.say(f"{verdict.host}: {verdict.check}: {verdict.what}" + (f"; {verdict.fix}" if verdict.fix else ""))
    if red:
        raise ChecksFailedError(
            f"{len(red)} check{'s' if len(red) > 1 else ''} of {cluster.cluster_name}'s hosts failed; nothing changed",
            fix=f"mend the above; `raylaunch doctor {cluster.path}` looks again, with --fix it mends what is safe",
        )
    output.say(f"checked {len(cluster.hosts)} hosts in {diagnosis.seconds:.1f} s: fit")


def compare_images(shell: HostShell) -> None:
    """See that all hosts run the same image: the same id, or a layer of the same content on the same base.

    Raises:
        ClusterError: they do not.
    """
    tell = '{{.Image}} {{index .Config.Labels "raylaunch.layer"}}'
    command = f"docker inspect --format '{tell}' {shell.cluster.container_name}"
    images = {host: answer.stdout.split() for host, answer in shell.run_on_all(lambda h: shell.run(h, command)).items()}
    ids = {words[0] for words in images.values() if words}
    layers = {words[1] if len(words) > 1 else "" for words in images.values()}
    if len(ids) > 1 and (len(layers) > 1 or "" in layers):
        told = ", ".join(f"{host} {' '.join(words)[:40] or 'cannot tell'}" for host, words in images.items())
        raise ClusterError(
            f"the hosts run different images by the name {shell.cluster.image}: {told}",
            fix=f"`raylaunch down {shell.cluster.path}`; docker rmi {shell.cluster.image} where it differs; then up",
        )
