"""What this machine keeps for a cluster and gives to its hosts: Ray's token, and the content of the image's layer.

::

    ~/.raylaunch/clusters/<name>/
      token/auth_token    Ray's token (0600)
      image/              Dockerfile, this raylaunch as a wheel, build-image, layer-id
      ray/                Ray's own state and temporary files on this machine
      keys/<port>         API key of the service on that port (0600)
      owner.json          the hosts and the cluster file that the folder belongs to (Owner)
      up.log, down.log    output of the last run of Ray's launcher
"""

import hashlib
import importlib.resources
import json
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from raylaunch.base import paths
from raylaunch.base.errors import ClusterError
from raylaunch.config.cluster_file import ClusterFile
from raylaunch.provision.container import LAYER_LABEL, Docker, runtime_of
from raylaunch.provision.wheel import write_wheel


def folder_of(cluster_name: str) -> Path:
    """The folder for a cluster on this machine (not created here)."""
    return paths.home() / "clusters" / cluster_name


def ray_folder_of(cluster: ClusterFile) -> Path:
    """The folder of Ray's launcher for a cluster; created when it begins, so that a refused `up` leaves nothing."""
    return folder_of(cluster.cluster_name) / "ray"


def find_token(cluster: ClusterFile) -> Path:
    """The file of Ray's token."""
    return folder_of(cluster.cluster_name) / "token" / "auth_token"


def find_key(cluster: ClusterFile, port: int) -> Path:
    """The file of the API key of the service on a port."""
    return folder_of(cluster.cluster_name) / "keys" / str(port)


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose a cluster's folder is."""

    hosts: tuple[str, ...]
    file: str
    """The cluster file's absolute path."""
    is_up: bool
    """Whether `up` has started Ray there, and `down` has not ended it."""

    @classmethod
    def read(cls, cluster_name: str) -> Self | None:
        """The folder's owner; None where it has none."""
        try:
            values = json.loads(_owner_file(cluster_name).read_text())
        except (OSError, ValueError):
            return None
        return cls(tuple(values["hosts"]), values["file"], values["is_up"])


def _owner_file(cluster_name: str) -> Path:
    return folder_of(cluster_name) / "owner.json"


def check_owner(cluster: ClusterFile) -> None:
    """Check that the cluster's folder on this machine is not that of another cluster of the same name.

    Clusters are the same where they have a host in common. A file whose hosts were all edited takes its folder along,
    unless the cluster of the old hosts is up.

    Raises:
        ClusterError: it is; `down` would remove that cluster's API key and state.
    """
    name, owner = cluster.cluster_name, Owner.read(cluster.cluster_name)
    if owner is None or {*owner.hosts} & {*cluster.hosts}:
        return
    if owner.file == str(cluster.path.absolute()) and not owner.is_up:
        return
    raise ClusterError(
        f"{folder_of(name)} belongs to another cluster of the name {name}: {', '.join(owner.hosts)} ({owner.file})",
        fix=f"set another cluster_name in {cluster.shown_path} (`raylaunch init --name`), or take that one down",
    )


def claim(cluster: ClusterFile, *, is_up: bool = False) -> None:
    """Record whose the cluster's folder is.

    Raises:
        ClusterError: it is another cluster's.
    """
    check_owner(cluster)
    before = Owner.read(cluster.cluster_name)
    owner = Owner(cluster.hosts, str(cluster.path.absolute()), is_up or (before is not None and before.is_up))
    paths.write_private(_owner_file(cluster.cluster_name), json.dumps(asdict(owner)))


def release(cluster: ClusterFile) -> None:
    """Give the folder up: the cluster is down."""
    _owner_file(cluster.cluster_name).unlink(missing_ok=True)


def write_kit(cluster: ClusterFile) -> Path:
    """Create the token if it is missing, and write the layer's content as of this raylaunch; the cluster's folder.

    Raises:
        ClusterError: the folder is another cluster's.
    """
    claim(cluster)
    folder = paths.make_private(folder_of(cluster.cluster_name))
    token = find_token(cluster)
    if not token.exists():
        paths.write_private(token, secrets.token_hex(32))
    image = paths.make_private(folder / "image")
    dockerfile = (importlib.resources.files("raylaunch.data") / "Dockerfile").read_bytes()
    wheel = write_wheel(image).read_bytes()
    (image / "Dockerfile").write_bytes(dockerfile)
    (image / "build-image").write_text(make_build_script(runtime_of(cluster)))
    (image / "layer-id").write_text(hashlib.sha256(dockerfile + wheel).hexdigest()[:16] + "\n")
    return folder


def make_build_script(runtime: Docker) -> str:
    """The script that hosts run: it builds the image "$1" from its own folder, if the host lacks it in this version.

    The label of the image holds the content's id and that of the base image. What it does is written beside its
    folder, which is the build's context, for `up` (image_progress).
    """
    label = f'{{{{index .Config.Labels "{LAYER_LABEL}"}}}}'
    return f"""\
# Build the image "$1" from this folder, unless the host has it with the same content.
set -eu
cd "$(dirname "$0")"
id=$(cat layer-id)
case $({runtime.inspect_image('"$1"', label)} 2>/dev/null || true) in
"$id"-*) exit 0 ;;
esac
base=$(sed -n 's/^FROM //p' Dockerfile)
notes=$PWD.progress
mkdir -p "$notes"
trap 'rm -rf "$notes"' EXIT
if ! {runtime.inspect_image('"$base"')} >/dev/null 2>&1; then
    echo pulling >"$notes/stage"
    {runtime.list_layers.format(image='"$base"')} >"$notes/manifest.json" 2>/dev/null || true
    {runtime.pull.format(image='"$base"')} >"$notes/pull.log"
fi
echo building >"$notes/stage"
id=$id-$({runtime.inspect_image('"$base"')} | cut -c 8-19)
{runtime.build.format(image='"$1"', label=f'"{LAYER_LABEL}=$id"')}
"""
