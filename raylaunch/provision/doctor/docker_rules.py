"""The container runtime on every host: the daemon, the user's access, NVIDIA's runtime, image and container."""

import re
import shlex
from collections.abc import Iterator, Sequence

from raylaunch.base.text import printable
from raylaunch.config.cluster_file import ClusterFile
from raylaunch.provision.container import Docker, runtime_of
from raylaunch.provision.doctor.access_rules import write_login
from raylaunch.provision.doctor.gather import HostFacts
from raylaunch.provision.doctor.probe_facts import Image
from raylaunch.provision.doctor.verdicts import Check, Verdict

_INSTALL_TOOLKIT = {
    "debian": "{sudo}apt-get install -y nvidia-container-toolkit",
    "rhel": "{sudo}dnf install -y nvidia-container-toolkit",
    "suse": "{sudo}zypper install -y nvidia-container-toolkit",
    "arch": "{sudo}pacman -S --noconfirm nvidia-container-toolkit",
    "other": "install nvidia-container-toolkit",
}
"""From NVIDIA's package source (docs.nvidia.com/datacenter/cloud-native/container-toolkit), which has to be added."""


def wants_gpus(facts: HostFacts, cluster: ClusterFile) -> bool:
    """Whether the container of a host asks for GPUs."""
    return cluster.gpu_request_of(facts.address).asks


def judge_docker(hosts: Sequence[HostFacts], cluster: ClusterFile) -> Iterator[Verdict]:
    """Verdicts on the runtime and on what it has of the cluster."""
    runtime = runtime_of(cluster)
    for facts in hosts:
        yield _judge_daemon(facts, runtime)
        if facts.docker.problem:
            names = ("NVIDIA runtime", "image", "container") if wants_gpus(facts, cluster) else ("image", "container")
            yield from (
                Check(name, facts.address).unknown(f"{runtime.program} does not answer there") for name in names
            )
            continue
        if wants_gpus(facts, cluster):
            yield _judge_nvidia(facts, runtime, uses_cdi=cluster.gpu_request_of(facts.address).uses_cdi)
        if facts.objects.answered:
            yield _judge_container(facts, cluster)
        else:
            what = f"{runtime.program} reported its version, but no images and containers within 10 s"
            yield from (Check(name, facts.address).unknown(what) for name in ("image", "container"))
    answering = [facts for facts in hosts if not facts.docker.problem and facts.objects.answered]
    yield from _judge_images(answering, cluster)


def _judge_daemon(facts: HostFacts, runtime: Docker) -> Verdict:
    check, system, program = Check("docker", facts.address), facts.system, runtime.program
    if not facts.docker.problem:
        return check.ok(facts.docker.version.partition("+")[0])
    if facts.docker.problem == "missing":
        return check.failed(f"{program} is not installed", runtime.install(system.family, system.sudo))
    if facts.docker.problem == "stopped":
        what = f"{program} is installed, but its daemon is not running"
        return check.failed(what, runtime.start.format(sudo=system.sudo), safe=True)
    if facts.docker.problem == "denied":
        what = f"user {system.user} may not use {program} (not in group {program})"
        return check.failed(what, runtime.grant_access.format(user=shlex.quote(system.user)), safe=True)
    if facts.docker.problem == "slow":
        return check.failed(f"{program}'s daemon does not answer within 10 s", runtime.restart.format(sudo=system.sudo))
    return check.failed(
        f"{program} fails: {printable(facts.docker.message)}", runtime.show_log.format(sudo=system.sudo)
    )


def _judge_nvidia(facts: HostFacts, runtime: Docker, *, uses_cdi: bool) -> Verdict:
    check, sudo = Check("NVIDIA runtime", facts.address), facts.system.sudo
    if uses_cdi and facts.docker.cdi is False:
        return check.failed(
            "docker.run_options name GPUs as CDI devices (nvidia.com/gpu=...), which this "
            f"{runtime.program} has turned off",
            runtime.enable_cdi.format(sudo=sudo),
        )
    if "nvidia" in facts.docker.runtimes or facts.system.has_nvidia_hook:
        return check.ok(f"configured in {runtime.program}")
    return check.failed(
        f"{runtime.program} cannot pass GPUs to containers: nvidia-container-toolkit is missing",
        f"{_INSTALL_TOOLKIT[facts.system.family].format(sudo=sudo)} && {runtime.enable_nvidia.format(sudo=sudo)}",
    )


def _judge_container(facts: HostFacts, cluster: ClusterFile) -> Verdict:
    found, name, check = facts.objects.container, cluster.container_name, Check("container", facts.address)
    if found is None:
        return check.ok("none of an earlier run")
    if found.status == "running" and found.runs_ray:
        if facts.objects.image and found.image != facts.objects.image.id:
            return check.warning(
                f"{name} runs an older image than {cluster.image} is now",
                f"raylaunch down {cluster.shown_path}, then raylaunch up {cluster.shown_path}, starts the new one",
            )
        return check.ok(f"{name} runs already, with Ray in it")
    if found.cluster == cluster.cluster_name:
        return check.ok(f"{name} of an earlier `up` that did not end; `up` replaces it")
    command = runtime_of(cluster).remove.format(container=name)
    if found.status in ("running", "paused", "restarting"):
        return check.failed(f"a container {name} is {found.status}, but has no Ray in it", command)
    return check.failed(f"a stale container {name} of an earlier run exists ({found.status})", command, safe=True)


def _judge_images(hosts: Sequence[HostFacts], cluster: ClusterFile) -> Iterator[Verdict]:
    """The image is present, and the same everywhere; it is compared with the head's, else with the first found."""
    builds = _builds_image(cluster)
    reference = next((facts for facts in hosts if facts.objects.image), None)
    for facts in hosts:
        image, check = facts.objects.image, Check("image", facts.address)
        if image is None and builds:
            yield check.ok(f"{cluster.image} is built there by `up`")
        elif image is None:
            copy = f"; or copy it: {_copy(cluster, reference.address, facts.address)}" if reference else ""
            yield check.failed(
                f"image {cluster.image} is missing: Ray's launcher would pull it, which takes minutes or fails",
                f"{runtime_of(cluster).pull.format(image=cluster.image)}{copy}",
            )
        elif reference is None or reference.objects.image is None or _are_same(image, reference.objects.image):
            yield check.ok(f"{cluster.image}, {image.id.removeprefix('sha256:')[:12]}")
        elif builds and _content(image) != _content(reference.objects.image):
            yield check.ok(f"{cluster.image} has other sources than on {reference.address}; `up` rebuilds it")
        else:
            own, other = (each.id.removeprefix("sha256:")[:12] for each in (image, reference.objects.image))
            yield check.failed(
                f"{cluster.image} is a different image ({own}) than on {reference.address} ({other})",
                _copy(cluster, reference.address, facts.address),
            )


def _builds_image(cluster: ClusterFile) -> bool:
    """Whether the cluster file itself builds, loads or pulls the image on each host."""
    verbs = re.compile(r"\b(build|load|import|pull)")
    return any(verbs.search(command) and cluster.image in command for command in cluster.initialization_commands)


def _copy(cluster: ClusterFile, source: str, target: str) -> str:
    runtime = runtime_of(cluster)
    save = runtime.save.format(image=cluster.image)
    return f"{write_login(cluster, source)} {save} | {write_login(cluster, target)} {runtime.load}"


def _are_same(one: Image, other: Image) -> bool:
    """The same image, or built on each host from the same sources."""
    if one.id == other.id or set(one.digests) & set(other.digests):
        return True
    return bool(one.label) and one.label == other.label


def _content(image: Image) -> str:
    """The id of the content of an image's layer; the label is that id, a dash, and the base's id."""
    return image.label.partition("-")[0]
