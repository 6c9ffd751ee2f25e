"""Ray's launcher as a child of this process: its files in raylaunch's own folder, its output in a log."""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from getpass import getuser
from pathlib import Path

from raylaunch.base import paths
from raylaunch.base.processes import Child
from raylaunch.config.cluster_file import ClusterFile
from raylaunch.provision import artifacts
from raylaunch.provision.template import KIT_MOUNT, TOKEN_MOUNT

_SSH_WAIT_S = 45
"""Ray's own timeout for a head that does not answer is 900 s."""
_STOP_S = 5.0


@dataclass(frozen=True)
class Launcher:
    """A running ray_up_main, which waits for its configuration."""

    cluster: ClusterFile
    process: Child
    log: Path

    def begin(self, *, with_build: bool = True) -> None:
        """Send the configuration, on which it begins."""
        stdin = self.process.popen.stdin
        assert stdin is not None
        paths.make_private(artifacts.ray_folder_of(self.cluster))
        with contextlib.suppress(BrokenPipeError), stdin:
            stdin.write(make_config(self.cluster, with_build=with_build).encode())

    def is_alive(self) -> bool:
        """Whether it still runs."""
        return self.process.popen.poll() is None

    @property
    def status(self) -> int:
        """Its exit status; waits for the exit."""
        return self.process.popen.wait()

    def read_log(self) -> str:
        """All that it has printed."""
        return self.log.read_text(errors="replace")


def make_config(cluster: ClusterFile, *, with_build: bool) -> str:
    """The cluster's configuration for Ray's launcher as JSON; token and image layer come from this machine's folder.

    Args:
        with_build: whether hosts build the image where it is missing.
    """
    config = json.loads(cluster.document)
    folder = artifacts.folder_of(cluster.cluster_name)
    sources = {TOKEN_MOUNT: str(folder / "token"), KIT_MOUNT: str(folder / "image")}
    config["file_mounts"] = {inside: sources.get(inside, source) for inside, source in cluster.file_mounts.items()}
    if not with_build:
        commands = cluster.initialization_commands
        config["initialization_commands"] = [command for command in commands if KIT_MOUNT not in command]
    return json.dumps(config)


@contextlib.contextmanager
def start_launcher(cluster: ClusterFile, verb: str) -> Iterator[Launcher]:
    """Start Ray's launcher for `verb` ("up" or "down"); it is stopped at the end of the block, or with this process."""
    folder = paths.make_private(artifacts.folder_of(cluster.cluster_name))
    environment = os.environ | {
        "TMPDIR": str(artifacts.ray_folder_of(cluster)),
        "RAY_TMPDIR": str(artifacts.ray_folder_of(cluster)),
        "AUTOSCALER_NODE_START_WAIT_S": str(_SSH_WAIT_S),
        "RAY_UP_enable_autoscaler_v2": "0",  # else it prefixes the start commands with v2's settings (Ray 2.60)
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    log = folder / f"{verb}.log"
    with log.open("wb") as printed:
        child = Child.start(
            [sys.executable, "-u", "-m", "raylaunch.provision.ray_up_main", verb],
            environment=environment,
            output=printed,
            stdin=subprocess.PIPE,
        )
    try:
        yield Launcher(cluster, child, log)
    finally:
        child.send(signal.SIGTERM)
        child.wait_or_kill(_STOP_S)
        remove_ssh_sockets(cluster.cluster_name)


def remove_ssh_sockets(cluster_name: str) -> None:
    """Remove the folder of ssh sockets that Ray's launcher leaves in /tmp (Ray 2.60, SSHCommandRunner)."""
    user, name = (hashlib.sha256(text.encode()).hexdigest()[:10] for text in (getuser(), cluster_name))
    shutil.rmtree(Path("/tmp", f"ray_ssh_{user}", name), ignore_errors=True)
    with contextlib.suppress(OSError):  # another cluster's are in it
        Path("/tmp", f"ray_ssh_{user}").rmdir()
