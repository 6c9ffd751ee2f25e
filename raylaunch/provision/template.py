"""Write a cluster file, Ray's own cluster YAML, for any number of hosts from one template (data/cluster.yaml)."""

import importlib.resources
import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from raylaunch.base import versions
from raylaunch.base.errors import ClusterFileError
from raylaunch.cluster.settings import NODE
from raylaunch.config import cluster_file, defaults
from raylaunch.config import cluster_ports as ports
from raylaunch.config.cluster_file import ClusterFile
from raylaunch.provision import artifacts

BASE_IMAGE = f"vllm/vllm-openai:v{versions.VLLM}"
"""vLLM's official image, which docker/Dockerfile builds on."""
LAYER_IMAGE = f"raylaunch:{versions.VLLM}"
"""Image of docker/Dockerfile on BASE_IMAGE; built on each host where it is missing."""
TOKEN_MOUNT = "/root/.ray"
"""Where Ray looks for its token in a container."""
KIT_MOUNT = "/opt/raylaunch-image"
"""Where a host's container has the content of the image's layer."""
_OBJECT_STORE_BYTES = 2 << 30
"""Weights do not pass through it; Ray's own choice (30 % of the RAM) would leave NCCL and vLLM no shared memory."""
_LONGEST_LINE = 114
_BUILD = """\
  {mount}: ~/.raylaunch/clusters/{name}/image # content of the image's layer

initialization_commands: # on each host, before its container starts
  - sh /tmp/ray_tmp_mount/{name}{mount}/build-image {image}
"""


@dataclass(frozen=True, kw_only=True)
class ClusterPlan:
    """What a user chooses for a cluster; the rest is the template's."""

    hosts: Sequence[str]
    """Addresses, the head's first."""
    user: str
    key: str = defaults.SSH_KEY
    image: str = LAYER_IMAGE
    """Any other image than LAYER_IMAGE is used as it is: from a registry, or loaded on every host."""
    data: str = defaults.MODELS_FOLDER
    """Folder of the models, the same on every host."""
    name: str


def render(plan: ClusterPlan, file: str) -> str:
    """The text of the cluster file.

    Args:
        file: its path as the user will type it.
    """
    head, *workers = plan.hosts
    values = {
        "FILE": file,
        "HEAD": head,
        "WORKERS": ", ".join(workers),
        "USER": plan.user,
        "KEY": plan.key,
        "NAME": plan.name,
        "IMAGE": plan.image,
        "MODELS": _mount(plan.data),
        "GCS": str(ports.GCS),
        "STORE": str(_OBJECT_STORE_BYTES),
        "RAY_SETTINGS": "\n".join(f"    - -e {name}={value}" for name, value in NODE.items()),
        "BUILD": "",
        "HEAD_PORTS": _wrap(
            {
                "port": ports.GCS,
                "ray-client-server-port": ports.RAY_CLIENT,
                "dashboard-host": "127.0.0.1",
                "dashboard-port": ports.DASHBOARD,
            }
        ),
        "NODE_PORTS": _wrap(
            {**ports.NODE_OPTIONS, "min-worker-port": ports.MIN_WORKER, "max-worker-port": ports.MAX_WORKER}
        ),
    }
    if plan.image == LAYER_IMAGE:
        values["BUILD"] = _BUILD.format(mount=KIT_MOUNT, name=plan.name, image=plan.image)
        values["IMAGE"] += " # docker/Dockerfile on vLLM's official image"
    template = (importlib.resources.files("raylaunch.data") / "cluster.yaml").read_text()
    return re.sub(r"@([A-Z_]+)@", lambda found: values[found[1]], template)


def write(plan: ClusterPlan, path: Path) -> ClusterFile:
    """Write the cluster file; nothing is written where it would be refused.

    Raises:
        ClusterFileError: the plan does not make a valid file.
        ClusterError: its name is that of another cluster on this machine.
    """
    text = render(plan, str(path))
    try:
        cluster = cluster_file.parse(path, text)
    except ClusterFileError as error:
        problems = [problem.partition(": ")[2] for problem in error.problems]
        raise ClusterFileError(f"{path} was not written", fix="correct the options", problems=problems) from None
    artifacts.check_owner(cluster)
    path.write_text(text)
    return cluster


def parse_hosts(text: str) -> list[str]:
    """The addresses of `--hosts`.

    Raises:
        ClusterFileError: an entry is no plain address.
    """
    hosts = [host.strip() for host in text.split(",") if host.strip()]
    problems = []
    for host in hosts:
        if "@" in host:
            problems.append(f"{host}: an address without a user; --user names it for all hosts")
        elif re.fullmatch(r"[^:]+:\d+|\[.*\]:\d+", host):
            problems.append(f"{host}: an address without a port; ports go into ~/.ssh/config")
        elif re.search(r"\s", host):
            problems.append(f"{host}: a space; separate addresses by commas: --hosts {','.join(host.split())}")
    if problems or not hosts:
        raise ClusterFileError("--hosts is not a list of addresses", fix="--hosts 10.0.0.1,10.0.0.2", problems=problems)
    return hosts


def name_after(path: Path) -> str:
    """A cluster's name by its file: "cluster.yaml" is "cluster"."""
    return re.sub(r"^[^A-Za-z0-9]+|[^A-Za-z0-9_.-]+", "-", path.stem).strip("-") or "cluster"


def _mount(folder: str) -> str:
    """The option that mounts a folder of the host at the same path: quoted for the host's shell, then for YAML."""
    mount = shlex.quote(f"{folder}:{folder}")
    option = f"-v {mount}"
    return option if mount == f"{folder}:{folder}" else json.dumps(option, ensure_ascii=False)


def _wrap(options: dict[str, int | str]) -> str:
    """Options of `ray start`, as many on a line as fit."""
    lines = [""]
    for name, value in options.items():
        option = f"--{name}={value}"
        if len(lines[-1]) + len(option) > _LONGEST_LINE:
            lines.append("")
        lines[-1] += f" {option}" if lines[-1] else option
    return "\n    ".join(lines)
