"""Send a launch to the cluster's head, and run a verb with it in the head's container.

Secrets go through ssh's stdin into files of mode 0600, and appear in no argument, job or log.
"""

import os
import re
import secrets
import shlex
import time
from collections.abc import Sequence

import yaml

from raylaunch.base.errors import ClusterError
from raylaunch.base.viewpoint import Viewpoint
from raylaunch.config import launch_file
from raylaunch.config.cluster_file import ClusterFile
from raylaunch.config.launch import LaunchConfig
from raylaunch.config.layers import describe_path
from raylaunch.provision import artifacts
from raylaunch.provision.host_shell import HostShell

LAUNCHES = ".raylaunch/launches"
"""Folder in the container's home."""
_WRITE_PRIVATE = 'umask 077; mkdir -p "$HOME/$0" && cat >"$HOME/$0/$1"'
UNTIL_STDIN_ENDS = """\
exec 3<&0
"$@" 3<&- & child=$!
(while read -r _; do :; done; kill $child) <&3 >/dev/null 2>&1 & watch=$!
exec 3<&-
{ wait $child; } 2>/dev/null
status=$?
kill $watch 2>/dev/null
exit $status"""
"""Runs a command until it exits or stdin ends; by descriptor 3, as a shell's background jobs have no stdin. dash's
"Terminated" of a wait is left out."""
_HUB_VARIABLES = ("HF_TOKEN", "HF_ENDPOINT")
_LOCK_TIMEOUT_S = 120.0


def name_job(verb: str, launch: LaunchConfig) -> str:
    """A name that no other job or file has."""
    return f"{verb}-{launch.port}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def send_launch(shell: HostShell, launch: LaunchConfig, name: str) -> None:
    """Write NAME.yaml into the container's folder of launches, readable by its owner only."""
    text = yaml.safe_dump(launch.dump(mask=False), allow_unicode=True, sort_keys=False)
    send_file(shell, text, f"{name}.yaml")


def send_file(shell: HostShell, text: str, name: str, folder: str = LAUNCHES) -> None:
    """Write a file into a folder in the container's home, readable by its owner only.

    Raises:
        ClusterError: it cannot be written.
    """
    result = shell.run_in_head(["sh", "-c", _WRITE_PRIVATE, folder, name], stdin=text)
    if result.status != 0:
        head = shell.cluster.head_ip
        raise ClusterError(f"{head}: {folder}/{name} could not be written there: {result.stderr.strip()}")


def run_with_launch(
    cluster: ClusterFile, launch: LaunchConfig, words: Sequence[str], options: Sequence[str], *, outlives: bool = False
) -> int:
    """Run a verb that takes a launch in the head's container, with its output to ours; its exit status.

    The hub's variables of this machine (HF_TOKEN, HF_ENDPOINT) hold there, too.

    Args:
        words: the verb: ("weights", "pull").
        outlives: whether the launch file stays there where the verb succeeds, for the service that reads it again.

    Raises:
        ClusterError: the cluster is not up.
    """
    shell = HostShell.of(cluster)
    return shell.ssh.stream(cluster.head_ip, _send_verb(shell, launch, words, options, outlives=outlives))


def read_lock_text(cluster: ClusterFile, launch: LaunchConfig) -> str:
    """The lock file of a launch on a cluster, as text; its image is known to the host alone.

    Raises:
        ClusterError: the cluster is not up, or it cannot be collected.
    """
    shell = HostShell.of(cluster)
    collect = _send_verb(shell, launch, ["lock"], ["-o", "-"])
    result = shell.run(cluster.head_ip, collect, timeout_s=_LOCK_TIMEOUT_S)
    shell.raise_for(result)
    if result.status != 0:
        what, fix = read_error(result.stderr)
        raise ClusterError(f"{cluster.head_ip}: {what or 'the command failed there'}", fix=fix)
    return result.stdout.replace("\nimage: ''", f"\nimage: {find_image(shell)}")


def find_image(shell: HostShell) -> str:
    """Name and id of the image that the head's container runs; "" where none runs."""
    command = shell.runtime.inspect(shell.cluster.container_name, "{{.Config.Image}} {{.Image}}")
    return shell.run(shell.cluster.head_ip, command).stdout.strip()


def _send_verb(
    shell: HostShell, launch: LaunchConfig, words: Sequence[str], options: Sequence[str], *, outlives: bool = False
) -> str:
    """Send a launch to the head; returns the command that runs a verb with it there."""
    cluster, name = shell.cluster, name_job("-".join(words), launch)
    if not launch.api_keys and (key := read_key(cluster, launch.port)):
        launch = launch_file.with_values(launch, {"server.api_key": key}, why="generated")
    send_launch(shell, launch, name)
    variables = {name: os.environ[name] for name in _HUB_VARIABLES if os.environ.get(name)}
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())
    send_file(shell, exports or "\n", f"{name}.env")
    verb = [*viewpoint_of(cluster, launch).to_words(), "raylaunch", *words]
    folder = f"$HOME/{LAUNCHES}"
    keep = f'[ $status = 0 ] || rm -f "{folder}/{name}.yaml"' if outlives else f'rm -f "{folder}/{name}.yaml"'
    script = (
        f'. "{folder}/{name}.env"; rm -f "{folder}/{name}.env"; '
        f'{shlex.join(verb)} "{folder}/{name}.yaml" {shlex.join(options)}; status=$?; {keep}; exit $status'
    )
    inside = ["sh", "-c", UNTIL_STDIN_ENDS, "sh", "sh", "-c", script]
    return shell.runtime.execute(cluster.container_name, inside, keep_stdin=True)


def viewpoint_of(cluster: ClusterFile, launch: LaunchConfig | None = None) -> Viewpoint:
    """How the user of this machine sees the cluster's head, and the launch that is sent there."""
    file = describe_path(launch.path) if launch and launch.path else ""
    return Viewpoint(describe_path(cluster.path), cluster.head_ip, len(cluster.hosts), launch=file)


def read_key(cluster: ClusterFile, port: int) -> str | None:
    """The API key that this machine keeps for the service on `port`, or None."""
    try:
        return artifacts.find_key(cluster, port).read_text()
    except FileNotFoundError:
        return None


def read_error(stderr: str) -> tuple[str, str]:
    """What failed and what to do, of a verb's printed error (console.print_error)."""
    what = re.search(r"^error: (.*)$", stderr, re.M)
    fix = re.search(r"^what to do: (.*)$", stderr, re.M)
    return what[1] if what else "", fix[1] if fix else ""
