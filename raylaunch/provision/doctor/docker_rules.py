"""docker on every host: the engine, the right to it, NVIDIA's runtime, the image, and what an earlier run left."""

import re
from collections.abc import Iterator, Sequence

from raylaunch.base.text import printable
from raylaunch.config.cluster_file import ClusterFile
from raylaunch.provision.doctor.gather import HostFacts
from raylaunch.provision.doctor.probe_facts import Image
from raylaunch.provision.doctor.verdicts import Verdict, ok, red, unknown, warn

_INSTALL_DOCKER = {
    "debian": "{sudo}apt-get update && {sudo}apt-get install -y docker.io",
    "rhel": "{sudo}dnf install -y docker || {sudo}dnf install -y moby-engine; {sudo}systemctl enable --now docker",
    "suse": "{sudo}zypper install -y docker && {sudo}systemctl enable --now docker",
    "arch": "{sudo}pacman -S --noconfirm docker && {sudo}systemctl enable --now docker",
    "other": "install docker as its distribution says, and start it",
}
_INSTALL_TOOLKIT = {
    "debian": "{sudo}apt-get install -y nvidia-container-toolkit",
    "rhel": "{sudo}dnf install -y nvidia-container-toolkit",
    "suse": "{sudo}zypper install -y nvidia-container-toolkit",
    "arch": "{sudo}pacman -S --noconfirm nvidia-container-toolkit",
    "other": "install nvidia-container-toolkit",
}
"""From NVIDIA's own package source (docs.nvidia.com/datacenter/cloud-native/container-toolkit), which comes first."""


def wants_gpus(cluster: ClusterFile) -> bool:
    """Whether the containers ask for GPUs."""
    return cluster.find_option("--gpus") is not None or cluster.find_option("--runtime") == "nvidia"


def judge_docker(hosts: Sequence[HostFacts], cluster: ClusterFile) -> Iterator[Verdict]:
    """Verdicts on the engine and on what it holds."""
    for facts in hosts:
        yield _judge_engine(facts)
        if facts.docker.problem:
            names = ("NVIDIA runtime", "image", "container") if wants_gpus(cluster) else ("image", "container")
            yield from (unknown(name, facts.address, "docker does not answer there") for name in names)
            continue
        if wants_gpus(cluster):
            yield _judge_runtime(facts)
        if facts.objects.asked:
            yield _judge_container(facts, cluster)
        else:
            silent = "docker told its version, but nothing of images and containers within 10 s"
            yield from (unknown(name, facts.address, silent) for name in ("image", "container"))
    yield from _judge_images([facts for facts in hosts if not facts.docker.problem and facts.objects.asked], cluster)


def _judge_engine(facts: HostFacts) -> Verdict:
    host, system, said = facts.address, facts.system, printable(facts.docker.said)
    if facts.docker.problem == "missing":
        return red("docker", host, "docker is not installed", _INSTALL_DOCKER[system.family].format(sudo=system.sudo))
    if facts.docker.problem == "stopped":
        command = f"{system.sudo}systemctl enable --now docker"
        return red("docker", host, "docker is installed, but its daemon does not run", command, mend=command)
    if facts.docker.problem == "denied":
        command = f"sudo usermod -aG docker {system.user}"
        return red(
            "docker", host, f"user {system.user} has no right to docker (not in group docker)", command, mend=command
        )
    if facts.docker.problem == "slow":
        return red(
            "docker", host, "docker's daemon does not answer within 10 s", f"{system.sudo}systemctl restart docker"
        )
    if facts.docker.problem:
        return red("docker", host, f"docker fails: {said}", f"{system.sudo}journalctl -u docker -n 30")
    return ok("docker", host, facts.docker.version.partition("+")[0])


def _judge_runtime(facts: HostFacts) -> Verdict:
    if "nvidia" in facts.docker.runtimes or facts.system.has_nvidia_hook:
        return ok("NVIDIA runtime", facts.address, "docker knows it")
    sudo = facts.system.sudo
    return red(
        "NVIDIA runtime",
        facts.address,
        "docker cannot hand GPUs to containers: nvidia-container-toolkit is missing",
        f"{_INSTALL_TOOLKIT[facts.system.family].format(sudo=sudo)} && {sudo}nvidia-ctk runtime configure "
        f"--runtime=docker && {sudo}systemctl restart docker",
    )


def _judge_container(facts: HostFacts, cluster: ClusterFile) -> Verdict:
    found, name, host = facts.objects.container, cluster.container_name, facts.address
    if found is None:
        return ok("container", host, "none of an earlier run")
    if found.status == "running" and found.runs_ray:
        if facts.objects.image and found.image != facts.objects.image.id:
            return warn(
                "container",
                host,
                f"{name} runs, with another image than {cluster.image} is now",
                f"raylaunch down {cluster.path.name}, then raylaunch up {cluster.path.name}, takes the new one",
            )
        return ok("container", host, f"{name} runs already, with Ray in it")
    command = f"docker rm -f {name}"
    if found.status in ("running", "paused", "restarting"):
        return red("container", host, f"a container {name} is {found.status}, but no Ray is in it", command)
    return red(
        "container",
        host,
        f"a stale container {name} of an earlier run is there ({found.status})",
        command,
        mend=command,
    )


def _judge_images(hosts: Sequence[HostFacts], cluster: ClusterFile) -> Iterator[Verdict]:
    """The image is there, and the same everywhere: the head's is the measure, else the first found."""
    made = _names_maker(cluster)
    measure = next((facts for facts in hosts if facts.objects.image), None)
    for facts in hosts:
        image = facts.objects.image
        if image is None and made:
            yield warn("image", facts.address, f"{cluster.image} is not there yet; initialization_commands make it")
        elif image is None:
            copy = f"; or copy it: {_copy(cluster, measure.address, facts.address)}" if measure else ""
            yield red(
                "image",
                facts.address,
                f"image {cluster.image} is not there: Ray's launcher would pull it there, for minutes or in vain",
                f"docker pull {cluster.image}{copy}",
            )
        elif measure is None or measure.objects.image is None or _are_same(image, measure.objects.image):
            yield ok("image", facts.address, f"{cluster.image}, {image.id.removeprefix('sha256:')[:12]}")
        elif made and _content(image) != _content(measure.objects.image):
            yield warn(
                "image",
                facts.address,
                f"{cluster.image} is made of other sources than on {measure.address}; initialization_commands make it "
                "anew where it is old",
            )
        else:
            theirs = measure.objects.image.id.removeprefix("sha256:")[:12]
            yield red(
                "image",
                facts.address,
                f"{cluster.image} is another image ({image.id.removeprefix('sha256:')[:12]}) than on {measure.address} "
                f"({theirs})",
                _copy(cluster, measure.address, facts.address),
            )


def _names_maker(cluster: ClusterFile) -> bool:
    """Whether the cluster file itself builds, loads or pulls the image on each host."""
    makes = re.compile(r"\b(build|load|import|pull)")
    return any(makes.search(command) and cluster.image in command for command in cluster.initialization_commands)


def _copy(cluster: ClusterFile, source: str, target: str) -> str:
    user, image = cluster.ssh_user, cluster.image
    return f"ssh {user}@{source} docker save {image} | ssh {user}@{target} docker load"


def _are_same(one: Image, other: Image) -> bool:
    """The same image, or built on each host from the same sources."""
    if one.id == other.id or set(one.digests) & set(other.digests):
        return True
    return bool(one.label) and one.label == other.label


def _content(image: Image) -> str:
    """What an image's layer was built from; its label holds that, a dash, and the base it was built on."""
    return image.label.partition("-")[0]
