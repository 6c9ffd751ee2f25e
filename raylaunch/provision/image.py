"""The one image of a cluster: brought to its hosts from a file, and the same on all of them."""

from collections.abc import Sequence
from pathlib import Path

from raylaunch.base import console
from raylaunch.base.errors import ClusterError
from raylaunch.provision.host_shell import HostShell


def load_archive(shell: HostShell, archive: Path, hosts: Sequence[str]) -> None:
    """Load a file of `docker save` on those of `hosts` that lack the image, or have another one by its name.

    Where all have the same image already, nothing is loaded.

    Raises:
        ClusterError: docker did not take the file, or it does not hold the image.
    """
    image = shell.cluster.image
    ids = _find_ids(shell, hosts)
    if "" not in ids.values() and len({*ids.values()}) == 1:
        console.say(f"{', '.join(hosts)}: {image} is there already; {archive} is not loaded")
        return
    missing = [host for host, id_ in ids.items() if not id_]
    _load(shell, archive, missing or hosts[:1])
    ids = _find_ids(shell, hosts)
    loaded = ids[(missing or hosts)[0]]
    if others := [host for host, id_ in ids.items() if id_ != loaded]:
        _load(shell, archive, others)
        ids = _find_ids(shell, hosts)
    if len({*ids.values()}) > 1:
        told = ", ".join(f"{host} {id_[:19]}" for host, id_ in ids.items())
        raise ClusterError(f"the hosts have different images by the name {image}, though {archive} was loaded: {told}")


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


def _find_ids(shell: HostShell, hosts: Sequence[str]) -> dict[str, str]:
    """Host -> id of its image; "" where it has none."""
    command = f"docker image inspect --format '{{{{.Id}}}}' {shell.cluster.image}"
    answers = shell.run_on_all(lambda host: shell.run(host, command) if host in hosts else None)
    return {host: answer.stdout.strip() for host, answer in answers.items() if answer is not None}


def _load(shell: HostShell, archive: Path, hosts: Sequence[str]) -> None:
    """Load the file on `hosts`, at once."""
    image = shell.cluster.image
    console.say(f"loading {archive} on {', '.join(hosts)}")

    def load(host: str) -> str:
        if host not in hosts:
            return ""
        answer = shell.send_file(host, archive, f"docker load && docker image inspect {image} >/dev/null")
        if answer.status == 0:
            return ""
        said = answer.stderr.strip() or answer.stdout.strip()
        return f"{host}: {answer.stdout.strip()}, but {said}" if answer.stdout.strip() else f"{host}: {said}"

    if failed := [said for said in shell.run_on_all(load).values() if said]:
        raise ClusterError(
            f"{archive} did not bring {image}: {'; '.join(failed)}",
            fix=f"make the file anew where the image is: docker save {image} | gzip >{archive.name}; see to disk space",
        )
