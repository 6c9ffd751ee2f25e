"""What the hosts of a cluster are given by this machine: Ray's token, and what the image's layer is made of.

::

    ~/.raylaunch/clusters/<name>/
      token/auth_token    Ray's token (0600)
      image/              Dockerfile, this raylaunch as a wheel, build-image, layer-id
      ray/                Ray's own state and temporary files on this machine
      keys/<port>         API key of the service on that port (0600)
      up.log, down.log    what Ray's launcher printed last
"""

import hashlib
import importlib.resources
import secrets
from pathlib import Path

from raylaunch.base import paths
from raylaunch.provision.wheel import write_wheel

_BUILD_IMAGE = """\
# Build the image "$1" from this folder, unless the host has it from just this content.
set -eu
cd "$(dirname "$0")"
id=$(cat layer-id)
case $(docker image inspect --format '{{index .Config.Labels "raylaunch.layer"}}' "$1" 2>/dev/null || true) in
"$id"-*) exit 0 ;;
esac
base=$(sed -n 's/^FROM //p' Dockerfile)
docker image inspect "$base" >/dev/null 2>&1 || docker pull --quiet "$base"
id=$id-$(docker image inspect --format '{{.Id}}' "$base" | cut -c 8-19)
docker build --quiet --network=host --label "raylaunch.layer=$id" --tag "$1" .
"""


def folder_of(cluster_name: str) -> Path:
    """Where this machine keeps what belongs to a cluster (not made by asking)."""
    return paths.home() / "clusters" / cluster_name


def write_kit(cluster_name: str) -> Path:
    """Make the token where there is none, and the image's makings as this raylaunch has them; their folder."""
    folder = paths.make_private(folder_of(cluster_name))
    token = folder / "token" / "auth_token"
    if not token.exists():
        paths.write_private(token, secrets.token_hex(32))
    image = paths.make_private(folder / "image")
    dockerfile = (importlib.resources.files("raylaunch.data") / "Dockerfile").read_bytes()
    wheel = write_wheel(image).read_bytes()
    (image / "Dockerfile").write_bytes(dockerfile)
    (image / "build-image").write_text(_BUILD_IMAGE)
    (image / "layer-id").write_text(hashlib.sha256(dockerfile + wheel).hexdigest()[:16] + "\n")
    return folder
