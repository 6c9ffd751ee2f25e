"""The cluster file: Ray's own cluster YAML (provider `local`), read and checked before a host is contacted.

The only reader of that file: Ray's launcher gets its content from here as well.
"""

import contextlib
import importlib.resources
import importlib.util
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from raylaunch.base.errors import ClusterFileError
from raylaunch.config import yaml_reader
from raylaunch.config.cluster_checks import check_cluster
from raylaunch.config.defaults import MODELS_FOLDER
from raylaunch.config.file_content import FileKind, fetch_content
from raylaunch.config.gpu_request import GpuRequest
from raylaunch.config.layers import LayeredValues, describe_path
from raylaunch.config.run_options import RunOptions
from raylaunch.config.schema import FileSchema
from raylaunch.config.validation import check_values

KIND = FileKind(
    "cluster file",
    "a `cluster_name:` and a `provider:` block at least",
    frozenset({"model", "cluster", "engine", "server"}),
)


@dataclass(frozen=True, slots=True)
class ClusterFile:
    """A cluster as its file describes it: the values that raylaunch acts on, and the document for Ray's launcher."""

    path: Path
    """As the user typed it."""
    cluster_name: str
    head_ip: str
    worker_ips: tuple[str, ...]
    ssh_user: str
    ssh_private_key: Path | None
    """~ is resolved; None: the user's agent and ssh's default keys."""
    ssh_proxy_command: str | None
    image: str
    container_name: str
    run_options: tuple[str, ...]
    """For every host; a shell on each host expands them."""
    initialization_commands: tuple[str, ...]
    """Run on each host, before its container starts."""
    file_mounts: Mapping[str, str]
    """Path in the container -> path on this machine."""
    document: str
    """The file's content as JSON, with the keys that only Ray reads."""

    @property
    def shown_path(self) -> str:
        """The file for a command that is printed."""
        return shlex.quote(describe_path(self.path))

    @property
    def hosts(self) -> tuple[str, ...]:
        """All of them, the head first."""
        return (self.head_ip, *self.worker_ips)

    @property
    def model_folder(self) -> str:
        """The hosts' folder of models."""
        return self.find_model_folder(None)

    def find_model_folder(self, path: str | None) -> str:
        """Where the hosts keep a path of the containers: a folder there, or the name of a volume of docker's.

        Args:
            path: of the model in the containers; None: the volume that looks like one of models.
        """
        volume = self.options_of(self.head_ip).find_model_volume(path, MODELS_FOLDER)
        return volume.source if volume else MODELS_FOLDER

    def options_of(self, host: str) -> RunOptions:
        """The options of `docker run` on a host."""
        return RunOptions.parse([*self.run_options, *self._choose(host, "head_run_options", "worker_run_options")])

    def gpu_request_of(self, host: str) -> GpuRequest:
        """Which GPUs of a host its container and Ray in it take."""
        commands = self._choose(host, "head_start_ray_commands", "worker_start_ray_commands")
        return GpuRequest.read(self.options_of(host), commands)

    def _choose(self, host: str, head: str, worker: str) -> tuple[str, ...]:
        values = json.loads(self.document)
        name = head if host == self.head_ip else worker
        return tuple(values.get(name) or values["docker"].get(name) or ())

    def find_option(self, name: str) -> str | None:
        """The value of an option of `docker run` by its long name, or None; "" for one without a value."""
        return self.options_of(self.head_ip).find(name)

    def find_variable(self, name: str) -> str | None:
        """The value that `-e NAME=value` gives a variable in the containers, or None."""
        return self.options_of(self.head_ip).find_variable(name)


def load(path: Path) -> ClusterFile:
    """Read a cluster file.

    Raises:
        ClusterFileError: with every problem found, each with file:line: key.
    """
    layered = LayeredValues()
    content = fetch_content(path, layered, KIND)
    return _read(path, content, layered)


def parse(path: Path, text: str) -> ClusterFile:
    """The cluster file that `text` would be at `path`, which is not read.

    Raises:
        ClusterFileError: as `load`.
    """
    return _read(path, text.encode(), LayeredValues())


def change_image(path: Path, image: str) -> str:
    """The file's text with another `docker.image`; its comments stay.

    Raises:
        ClusterFileError: it is written so that only a person can change it.
    """
    text = path.read_text(encoding="utf-8")
    try:
        node: Any = yaml.compose(text, yaml.SafeLoader)
        for key in ("docker", "image"):
            node = next(value for name, value in node.value if name.value == key)
        changed = text[: node.start_mark.index] + image + text[node.end_mark.index :]
        if parse(path, changed).image == image:
            return changed
    except (yaml.YAMLError, StopIteration, AttributeError, TypeError):
        pass
    raise ClusterFileError(
        f"docker.image of {describe_path(path)} cannot be changed to {image}", fix="set docker.image in it by hand"
    )


def write_image(path: Path, image: str) -> None:
    """Change `docker.image` in the file itself.

    Raises:
        ClusterFileError: it cannot be written.
    """
    try:
        path.write_text(change_image(path, image), encoding="utf-8")
    except OSError as error:
        raise ClusterFileError(
            f"{describe_path(path)} cannot be written: {error.strerror}", fix=f"set docker.image in it to {image}"
        ) from error


def _read(path: Path, content: bytes | None, layered: LayeredValues) -> ClusterFile:
    if content is not None:
        yaml_reader.read_file(path, content, layered, KIND)
    if not layered.unread:
        _check(layered)
    if layered.problems:
        count = "1 problem" if len(layered.problems) == 1 else f"{len(layered.problems)} problems"
        raise ClusterFileError(
            f"{describe_path(path)} is not a valid cluster file: {count}",
            fix=f"correct the file; `raylaunch doctor {shlex.quote(describe_path(path))}` checks it and the hosts",
            problems=layered.problems,
        )
    return _freeze(path, json.dumps(layered.values))


def _check(layered: LayeredValues) -> None:
    """Add a problem for everything that raylaunch or Ray's launcher would reject."""
    check_values(layered, _find_schema())
    check_cluster(layered)


def _find_schema() -> FileSchema:
    """What raylaunch reads, with the other keys at the top, under `auth` and `docker` that the installed Ray knows."""
    document = json.loads((importlib.resources.files("raylaunch.data") / "cluster.schema.json").read_bytes())
    spec = importlib.util.find_spec("ray")  # read without importing Ray
    with contextlib.suppress(OSError, ValueError, KeyError):
        ray = Path((spec and spec.origin) or "").parent
        known = json.loads((ray / "autoscaler" / "ray-schema.json").read_bytes())
        own, its = document["properties"], known["properties"]
        for part, other in ((document, known), (own["docker"], its["docker"]), (own["auth"], its["auth"])):
            part["properties"] = {name: {} for name in other["properties"]} | part["properties"]
            part["additionalProperties"] = False
    return FileSchema(document)


def _freeze(path: Path, document: str) -> ClusterFile:
    values = json.loads(document)
    auth, docker, provider = values["auth"], values["docker"], values["provider"]
    key = auth.get("ssh_private_key")
    return ClusterFile(
        path=path,
        cluster_name=values["cluster_name"],
        head_ip=provider["head_ip"],
        worker_ips=tuple(provider["worker_ips"]),
        ssh_user=auth["ssh_user"],
        ssh_private_key=Path(key).expanduser() if key else None,
        ssh_proxy_command=auth.get("ssh_proxy_command"),
        image=docker["image"],
        container_name=docker["container_name"],
        run_options=tuple(docker.get("run_options", ())),
        initialization_commands=tuple(values.get("initialization_commands", ())),
        file_mounts=dict(values.get("file_mounts") or {}),
        document=document,
    )
