"""The container runtime of the hosts: its commands as text for a shell there, and what its messages mean.

The only place that spells `docker`, but for two scripts that run on hosts and get the program's name: doctor/probe.sh
(facts of its daemon) and host_logs.sh (its events). A second runtime is a class with the same members, chosen in
`runtime_of`.
Names and images are inserted unquoted: a ClusterFile holds none that a shell would interpret, and a script may pass its
own quoted variable.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from raylaunch.config.cluster_file import ClusterFile

CLUSTER_LABEL = "raylaunch.cluster"
"""Label of every container of a cluster; its value is the cluster's name (set by data/cluster.yaml)."""
LAYER_LABEL = "raylaunch.layer"
"""Label of an image that hosts built: equal for equal content."""

_INSTALL = {
    "debian": "{sudo}apt-get update && {sudo}apt-get install -y docker.io",
    "rhel": "{sudo}dnf install -y docker || {sudo}dnf install -y moby-engine; {sudo}systemctl enable --now docker",
    "suse": "{sudo}zypper install -y docker && {sudo}systemctl enable --now docker",
    "arch": "{sudo}pacman -S --noconfirm docker && {sudo}systemctl enable --now docker",
    "other": "install docker as the distribution documents it, and start it",
}


@dataclass(frozen=True, slots=True)
class Docker:
    """Docker's commands as values, each a format with the names of what it needs."""

    program: str = "docker"

    remove: str = "docker rm -f {container}"
    list_ids: str = "docker ps --all --quiet --no-trunc --filter label={label}"
    run_once: str = "docker run --rm --entrypoint {program} -v {mount} {image} {arguments}"
    run_alone: str = "docker run --rm --network none --entrypoint {program} {image} {arguments}"
    run_on_gpus: str = "docker run --rm --gpus all --entrypoint {program} {image}"

    list_volumes: str = "docker volume inspect --format '{{{{.Name}}}}' {volumes} 2>/dev/null"
    """Prints those of them that exist."""
    remove_volumes: str = "docker volume rm {volumes}"

    pull: str = "docker pull {image}"
    list_layers: str = "timeout 30 docker manifest inspect --verbose {image}"
    """Prints the sizes of an image's layers in its registry."""
    build: str = "docker build --quiet --network=host --label {label} --tag {image} ."
    save: str = "docker save {image}"
    load: str = "docker load"
    remove_image: str = "docker rmi {image}"

    version: str = "docker version"
    """Fails where the daemon does not answer."""
    free_disk: str = "docker system prune"
    start: str = "{sudo}systemctl enable --now docker"
    restart: str = "{sudo}systemctl restart docker"
    show_log: str = "{sudo}journalctl -u docker -n 30"
    grant_access: str = "sudo usermod -aG docker {user}"
    enable_nvidia: str = "{sudo}nvidia-ctk runtime configure --runtime=docker && {sudo}systemctl restart docker"

    enable_cdi: str = (
        "{sudo}nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml && "
        "{sudo}nvidia-ctk runtime configure --runtime=docker --cdi.enabled && {sudo}systemctl restart docker"
    )

    def execute(self, container: str, command: Sequence[str], *, keep_stdin: bool = False) -> str:
        """Run a command in a container; its arguments are quoted here."""
        return f"{self.program} exec {'-i ' if keep_stdin else ''}{container} {shlex.join(command)}"

    def inspect(self, container: str, template: str) -> str:
        """Print facts of a container by a Go template."""
        return f"{self.program} inspect --type container --format {shlex.quote(template)} {container}"

    def inspect_image(self, image: str, template: str = "{{.Id}}") -> str:
        """Print facts of an image by a Go template; fails where the image is missing."""
        return f"{self.program} image inspect --format {shlex.quote(template)} {image}"

    def install(self, family: str, sudo: str) -> str:
        """Install docker on a distribution of `family`; `sudo` is "sudo " or empty."""
        return _INSTALL[family].format(sudo=sudo)

    def has_no_container(self, stderr: str) -> bool:
        """Whether `execute` failed because the container does not exist or does not run."""
        return "No such container" in stderr or "is not running" in stderr


DOCKER = Docker()


def name_volumes(cluster: ClusterFile) -> tuple[str, str]:
    """Its volumes on each host: /root/.raylaunch and /tmp/ray of its container, which they outlive.

    Set by data/cluster.yaml; files that an older `init` wrote have none.
    """
    return f"raylaunch-{cluster.cluster_name}-home", f"raylaunch-{cluster.cluster_name}-ray"


def runtime_of(_cluster: ClusterFile) -> Docker:
    """The runtime that a cluster's hosts use. Always docker: cluster_file.load refuses `use_podman: true`."""
    return DOCKER
