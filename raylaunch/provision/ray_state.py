"""Ray's own state of a cluster, where plain `ray submit`, `ray attach` and `ray exec` look for it.

Ray's launcher runs with a folder of raylaunch's own, so that nothing of another user or an older cluster disturbs it.
Plain `ray` reads ``/tmp/ray/cluster-<name>.state`` (Ray 2.60), which becomes a link to the launcher's file.
"""

import json
import os
import shlex
import sys
from pathlib import Path

from raylaunch.base import console
from raylaunch.config.cluster_file import ClusterFile
from raylaunch.provision import artifacts

_HEAD = {
    "tags": {"ray-node-type": "head", "ray-node-status": "up-to-date", "ray-user-node-type": "local.cluster.node"},
    "state": "running",
}
"""What Ray's launcher notes of a head that it has set up (Ray 2.60, LocalNodeProvider)."""


def _find_file(folder: Path, cluster: ClusterFile, kind: str = "state") -> Path:
    return folder / "ray" / f"cluster-{cluster.cluster_name}.{kind}"


def _find_plain_folder() -> Path:
    """Ray's folder for temporary files in this user's shell (Ray 2.60, get_default_system_temp_dir)."""
    system = os.environ.get("TMPDIR") if sys.platform.startswith("linux") else None
    return Path(os.environ.get("RAY_TMPDIR") or system or "/tmp")


def publish(cluster: ClusterFile) -> None:
    """Let plain `ray` find the cluster, which is up; where that cannot be, print what `ray` needs."""
    folder = artifacts.ray_folder_of(cluster)
    own, plain = _find_file(folder, cluster), _find_file(_find_plain_folder(), cluster)
    try:
        if plain.is_file() and not plain.is_symlink():
            return  # of a plain `ray up`
        if not own.exists():  # another machine started the cluster
            own.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            own.write_text(json.dumps({cluster.head_ip: _HEAD}))
        plain.parent.mkdir(parents=True, exist_ok=True)
        plain.unlink(missing_ok=True)
        plain.symlink_to(own)
    except OSError as error:  # another user's folder
        console.say(f"Ray's own commands need RAY_TMPDIR={shlex.quote(str(folder))} here: {plain}: {error.strerror}")


def withdraw(cluster: ClusterFile) -> None:
    """Remove what plain `ray` finds: a stale state keeps the next `ray up` from starting workers (Ray 2.60)."""
    for kind in ("state", "lock"):
        try:
            _find_file(_find_plain_folder(), cluster, kind).unlink(missing_ok=True)
        except OSError:  # another user's
            return
