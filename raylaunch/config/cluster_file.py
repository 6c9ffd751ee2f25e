"""The cluster file: Ray's own cluster YAML (provider `local`), read and checked before a host is contacted.

The only reader of that file: Ray's launcher gets its content from here as well.
"""

import importlib.util
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raylaunch.base.errors import ClusterFileError
from raylaunch.base.text import find_nearest, quote
from raylaunch.config import vllm_schema, yaml_reader
from raylaunch.config.layers import Key, Said, describe_path
from raylaunch.config.vllm_schema import Option

KIND = yaml_reader.FileKind("cluster file", "a `cluster_name:` and a `provider:` block at least")
_TEXT = Option(("str",))
_TEXTS = Option(("list",), items=_TEXT)
_BLOCK = Option(("dict",))
_FLAG = Option(("bool",))
_TAKES: Mapping[Key, Option] = {
    ("cluster_name",): Option(("str",), example="two-node"),
    ("provider",): _BLOCK,
    ("provider", "type"): Option(("str",), choices=("local",)),
    ("provider", "head_ip"): Option(("str",), example="10.0.0.1"),
    ("provider", "worker_ips"): Option(("list",), items=_TEXT, example="[10.0.0.2]"),
    ("auth",): _BLOCK,
    ("auth", "ssh_user"): Option(("str",), example="ubuntu"),
    ("auth", "ssh_private_key"): Option(("str",), example="~/.ssh/id_ed25519"),
    ("auth", "ssh_proxy_command"): Option(("str", "null")),
    ("docker",): _BLOCK,
    ("docker", "image"): Option(("str",), example="vllm/vllm-openai:v0.32.0"),
    ("docker", "container_name"): Option(("str",), example="raylaunch"),
    ("docker", "pull_before_run"): _FLAG,
    ("docker", "run_options"): _TEXTS,
    ("docker", "head_run_options"): _TEXTS,
    ("docker", "worker_run_options"): _TEXTS,
    ("docker", "use_podman"): _FLAG,
    ("file_mounts",): _BLOCK,
    **{
        (name,): _TEXTS
        for name in (
            *("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands"),
            *("head_start_ray_commands", "worker_start_ray_commands"),
        )
    },
}
"""What raylaunch reads itself; of the keys that only Ray reads, only the names are checked."""
_NEEDED: Sequence[Key] = (
    ("cluster_name",),
    ("provider", "type"),
    ("provider", "head_ip"),
    ("provider", "worker_ips"),
    ("auth", "ssh_user"),
    ("docker", "image"),
    ("docker", "container_name"),
)
_ADDRESS = re.compile(r"[A-Za-z0-9][A-Za-z0-9.:_-]{0,252}", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,100}", re.ASCII)
_IMAGE = re.compile(r"[\w.:/@-]+", re.ASCII)
_USER = re.compile(r"[A-Za-z_][\w.-]{0,31}\$?", re.ASCII)


@dataclass(frozen=True, slots=True)
class ClusterFile:
    """A cluster as its file describes it: the values that raylaunch acts on, and the document for Ray's launcher."""

    path: Path
    cluster_name: str
    head_ip: str
    worker_ips: tuple[str, ...]
    ssh_user: str
    ssh_private_key: Path | None
    """~ is resolved; None: the user's agent and ssh's default keys."""
    ssh_proxy_command: str | None
    image: str
    container_name: str
    pull_before_run: bool
    """Ray's default is true: it pulls even where the image is present."""
    run_options: tuple[str, ...]
    """For every host; a shell on each host expands them."""
    initialization_commands: tuple[str, ...]
    """Run on each host, before its container starts."""
    file_mounts: Mapping[str, str]
    """Path in the container -> path on this machine."""
    document: str
    """The file's content as JSON, with the keys that only Ray reads."""

    @property
    def hosts(self) -> tuple[str, ...]:
        """All of them, the head first."""
        return (self.head_ip, *self.worker_ips)

    @property
    def model_folder(self) -> str:
        """The hosts' folder of models: the first folder that run_options mount, else /data."""
        found = re.search(r"(?:-v|--volume)[=\s]+(/[^:\s]*):", " ".join(self.run_options))
        return found[1] if found else "/data"

    def find_option(self, name: str) -> str | None:
        """The value of an option of `docker run` ("--shm-size=1g", "--shm-size 1g", "-e NAME=value"), or None.

        "" for one without a value.
        """
        found = re.search(rf"(?:^|\s){re.escape(name)}(?:[=\s]+(?!-)(\S+)|(?=\s|$))", " ".join(self.run_options))
        return None if found is None else found[1] or ""

    def find_variable(self, name: str) -> str | None:
        """The value that `-e NAME=value` gives a variable in the containers, or None."""
        found = re.search(rf"(?:-e|--env)[=\s]+{re.escape(name)}=(\S*)", " ".join(self.run_options))
        return None if found is None else found[1]


def load(path: Path) -> ClusterFile:
    """Read a cluster file.

    Raises:
        ClusterFileError: with every problem found, each with file:line: key.
    """
    said = Said()
    content = yaml_reader.fetch_content(path, said, KIND)
    if content is not None:
        yaml_reader.read_file(path, content, said, KIND)
    if not said.unread:
        _check(said)
    if said.problems:
        count = "1 problem" if len(said.problems) == 1 else f"{len(said.problems)} problems"
        raise ClusterFileError(
            f"{describe_path(path)} is not a valid cluster file: {count}",
            fix=f"correct the file; `raylaunch doctor {describe_path(path)}` checks it again, and the hosts",
            problems=said.problems,
        )
    return _freeze(path, said.values)


def _check(said: Said) -> None:
    """Add a problem for everything that raylaunch or Ray's launcher would reject."""
    _check_names(said)
    for key, option in _TAKES.items():
        block = _find(said, key[:-1])
        if block is not None and key[-1] in block:
            for problem in vllm_schema.check(option, block[key[-1]]):
                said.complain(key, problem)
    for key in _NEEDED:
        block = _find(said, key[:-1])
        if block is None or key[-1] not in block:
            example = _TAKES[key].make_example()
            said.problems.append(f"{'.'.join(key)} is missing (example: {key[-1]}: {example})")
    if not said.problems:
        _check_values(said)


def _find(said: Said, key: Key) -> Mapping[str, object] | None:
    block: Any = said.values
    for name in key:
        block = block.get(name) if isinstance(block, dict) else None
    return block if isinstance(block, dict) else None


def _check_names(said: Said) -> None:
    """Add a problem for each name that Ray's schema does not have."""
    top, docker = _read_ray_names()
    for key, valid in (((), top), (("docker",), docker)):
        for name in _find(said, key) or {}:
            if valid and name not in valid:
                nearest = find_nearest(name, valid)
                hint = f"nearest is {nearest}" if nearest else f"valid keys: {', '.join(valid)}"
                said.complain((*key, name), f"Ray's cluster file has no such key; {hint}")


def _read_ray_names() -> tuple[list[str], list[str]]:
    """Keys at the top and under `docker` in the installed Ray's schema, read without importing Ray."""
    spec = importlib.util.find_spec("ray")
    if spec is None or spec.origin is None:
        return [], []
    try:
        schema = json.loads((Path(spec.origin).parent / "autoscaler" / "ray-schema.json").read_bytes())
        return list(schema["properties"]), list(schema["properties"]["docker"]["properties"])
    except (OSError, ValueError, KeyError):
        return [], []


def _check_values(said: Said) -> None:
    """Check the form of values that reach a shell or ssh."""
    values = said.values
    patterns = {
        ("cluster_name",): (_NAME, "may only hold letters, digits, dots, dashes and underscores"),
        ("provider", "head_ip"): (_ADDRESS, "is not an address"),
        ("auth", "ssh_user"): (_USER, "is not a user name"),
        ("docker", "image"): (_IMAGE, "is not an image name"),
        ("docker", "container_name"): (_NAME, "may only hold letters, digits, dots, dashes and underscores"),
    }
    for key, (pattern, what) in patterns.items():
        value = (_find(said, key[:-1]) or {})[key[-1]]
        if not pattern.fullmatch(str(value)):
            said.complain(key, f"{quote(value)} {what}")
    hosts = [values["provider"]["head_ip"], *values["provider"]["worker_ips"]]
    for address in values["provider"]["worker_ips"]:
        if not _ADDRESS.fullmatch(address):
            said.complain(("provider", "worker_ips"), f"{quote(address)} is not an address")
        elif hosts.count(address) > 1:
            said.complain(("provider", "worker_ips"), f"{address} is listed twice among the hosts")
            break
    for address in hosts:
        if address in ("localhost", "0.0.0.0") or address.startswith("127."):
            said.complain(
                ("provider",), f"{address} is a different machine on every host: use an address of the network"
            )
    if values["docker"].get("use_podman"):
        said.complain(("docker", "use_podman"), "podman is not supported yet; set it to false or leave it out")
    for inside, source in (values.get("file_mounts") or {}).items():
        if not isinstance(source, str):
            said.complain(("file_mounts", inside), "expected the path of a file or folder on this machine")


def _freeze(path: Path, values: Mapping[str, Any]) -> ClusterFile:
    auth, docker, provider = values["auth"], values["docker"], values["provider"]
    key = auth.get("ssh_private_key")
    return ClusterFile(
        path=path.absolute(),
        cluster_name=values["cluster_name"],
        head_ip=provider["head_ip"],
        worker_ips=tuple(provider["worker_ips"]),
        ssh_user=auth["ssh_user"],
        ssh_private_key=Path(key).expanduser() if key else None,
        ssh_proxy_command=auth.get("ssh_proxy_command"),
        image=docker["image"],
        container_name=docker["container_name"],
        pull_before_run=docker.get("pull_before_run", True),
        run_options=tuple(docker.get("run_options", ())),
        initialization_commands=tuple(values.get("initialization_commands", ())),
        file_mounts=dict(values.get("file_mounts") or {}),
        document=json.dumps(values),
    )
