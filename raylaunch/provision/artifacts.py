"""What this machine keeps for a cluster and gives to its hosts: Ray's token, and the content of the image's layer.

::

    ~/.raylaunch/clusters/<name>/
      token/auth_token    Ray's token (0600)
      image/              Dockerfile, this raylaunch as a wheel, build-image, layer-id
      ray/                Ray's own state and temporary files on this machine
      keys/<port>         API key of the service on that port (0600)
      up.log, down.log    output of the last run of Ray's launcher
"""

import hashlib
import importlib.resources
import secrets
from pathlib import Path

from raylaunch.base import paths
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


def write_kit(cluster: ClusterFile) -> Path:
    """Create the token if it is missing, and write the layer's content as of this raylaunch; the cluster's folder."""
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

    The label of the image holds the content's id and that of the base image.
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
{runtime.inspect_image('"$base"')} >/dev/null 2>&1 || {runtime.pull.format(image='--quiet "$base"')}
id=$id-$({runtime.inspect_image('"$base"')} | cut -c 8-19)
{runtime.build.format(image='"$1"', label=f'"{LAYER_LABEL}=$id"')}
"""
