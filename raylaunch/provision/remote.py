"""A service on a cluster, from the laptop: `serve`, `status`, `stop`, `ask` and `logs` with --cluster.

`serve` runs on the head as a Ray job, so that it outlives this machine's connection; the other verbs run there as they
would by hand. What is secret goes through ssh's stdin into files of mode 0600, and is in no argument, job or log.
"""

import asyncio
import contextlib
import json
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from raylaunch.base import console, paths
from raylaunch.base.errors import ClusterError, ServiceError
from raylaunch.config import cluster_ports, launch_file
from raylaunch.config.cluster_file import ClusterFile
from raylaunch.config.launch import LaunchConfig
from raylaunch.provision import artifacts
from raylaunch.provision.host_shell import Answer, HostShell

_LAUNCHES = ".raylaunch/launches"
"""In the container's home."""
_WRITE_PRIVATE = 'umask 077; mkdir -p "$HOME/$0" && cat >"$HOME/$0/$1"'
_UNTIL_STDIN_ENDS = """\
exec 3<&0
"$@" 3<&- & child=$!
(while read -r _; do :; done; kill $child) <&3 >/dev/null 2>&1 & watch=$!
exec 3<&-
wait $child; status=$?
kill $watch 2>/dev/null
exit $status"""
"""Runs a command until it ends or our stdin does; by descriptor 3, as a shell's background jobs have no stdin."""
_STOP_TIMEOUT_S = 180.0


def serve(cluster: ClusterFile, launch: LaunchConfig, *, rehearse: bool, detach: bool, with_key: bool) -> None:
    """Serve a launch on the cluster; follows its log until it ends, or Ctrl-C leaves it alone.

    Args:
        detach: return once the job is handed over.
        with_key: give the API a key where the launch names none.

    Raises:
        ClusterError: the cluster is not up.
        ServiceError: the service ended otherwise than by being asked to.
    """
    shell = HostShell.of(cluster)
    launch = give_key(cluster, launch) if with_key else launch
    name = f"{launch.port}.yaml"
    text = yaml.safe_dump(launch.dump(mask=False), allow_unicode=True, sort_keys=False)
    answer = shell.run_in_head(["sh", "-c", _WRITE_PRIVATE, _LAUNCHES, name], stdin=text)
    if answer.status != 0:
        raise ClusterError(f"{cluster.head_ip}: the launch could not be written there: {answer.stderr.strip()}")
    entrypoint = f"raylaunch serve ~/{_LAUNCHES}/{name}" + (" --rehearse" if rehearse else "")
    with shell.tunnel(cluster_ports.DASHBOARD) as port:
        client = connect(cluster, port)
        job = f"serve-{launch.port}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
        client.submit_job(entrypoint=entrypoint, submission_id=job)
        console.say(f"Ray job {job} on {cluster.head_ip} serves {launch.served_model_names[0]}")
        if detach:
            console.say(_describe_ways(cluster))
            return
        try:
            follow(client, job)
        except KeyboardInterrupt:
            console.say(f"left it alone: it goes on. {_describe_ways(cluster)}")
            return
        _raise_for_end(client, job)


def _describe_ways(cluster: ClusterFile) -> str:
    return "; ".join(f"`raylaunch {verb} --cluster {cluster.path}`" for verb in ("logs -f", "status", "stop"))


def give_key(cluster: ClusterFile, launch: LaunchConfig) -> LaunchConfig:
    """The launch with an API key: its own, else the one this machine keeps for that port, made where there is none."""
    if launch.api_keys:
        return launch
    path = artifacts.folder_of(cluster.cluster_name) / "keys" / str(launch.port)
    if not path.exists():
        paths.write_private(path, f"sk-{secrets.token_hex(24)}")
    console.say(f"the API asks for the key in {path}; --open-api turns that off")
    return launch_file.with_values(launch, {"server.api_key": path.read_text()}, why="generated")


def find_key(cluster: ClusterFile, port: int) -> str | None:
    """The API key that this machine keeps for the service on `port`, or None."""
    try:
        return (artifacts.folder_of(cluster.cluster_name) / "keys" / str(port)).read_text()
    except FileNotFoundError:
        return None


def connect(cluster: ClusterFile, port: int) -> Any:
    """A client of the head's jobs API, through the way at `port`."""
    from ray.job_submission import JobSubmissionClient

    token = (artifacts.folder_of(cluster.cluster_name) / "token" / "auth_token").read_text().strip()
    try:
        return JobSubmissionClient(f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {token}"})
    except (ConnectionError, RuntimeError) as error:
        raise ClusterError(
            f"{cluster.head_ip}: Ray's jobs API does not take us: {str(error).splitlines()[0]}",
            fix=f"the token there is another machine's: `raylaunch down {cluster.path}` and up again from here",
        ) from error


def follow(client: Any, job: str) -> None:
    """Write the job's log to stderr as it comes, until the job ends."""

    async def copy() -> None:
        async for piece in client.tail_job_logs(job):
            sys.stderr.write(piece)
            sys.stderr.flush()

    asyncio.run(copy())


def _raise_for_end(client: Any, job: str) -> None:
    deadline = time.monotonic() + 10.0
    while not (status := client.get_job_status(job)).is_terminal():
        if time.monotonic() > deadline:
            raise ServiceError(f"Ray job {job}: its log ended, but it still runs", fix="`raylaunch status --cluster`")
        time.sleep(0.2)
    if str(status) == "SUCCEEDED":
        return
    message = (client.get_job_info(job).message or str(status)).splitlines()[0].partition(", last available logs")[0]
    raise ServiceError(f"Ray job {job} ended: {message}", fix="its log above says why")


def run_verb(cluster: ClusterFile, words: Sequence[str]) -> int:
    """Run a verb of raylaunch in the head's container; its output is ours, its exit status is returned."""
    answer = HostShell.of(cluster).run_in_head(["raylaunch", *words], timeout_s=_STOP_TIMEOUT_S)
    sys.stdout.write(answer.stdout)
    sys.stderr.write(answer.stderr)
    return answer.status


def follow_verb(cluster: ClusterFile, words: Sequence[str]) -> int:
    """Like run_verb, for one that goes on: its stdout as it comes, until it ends or Ctrl-C."""
    shell, process = _open_verb(cluster, words)
    with contextlib.suppress(KeyboardInterrupt):
        for line in process.stdout or ():
            sys.stdout.write(line)
            sys.stdout.flush()
    said = _close_verb(process)
    shell.raise_for(Answer(process.returncode, "", said))
    sys.stderr.write(said)
    return 0 if process.returncode in (0, 143) else process.returncode


def read_lines(cluster: ClusterFile, words: Sequence[str]) -> Iterator[str]:
    """The lines of a verb that goes on in the head's container, as they come; it ends with this iterator.

    Raises:
        ClusterError: the cluster is not up.
        ServiceError: the verb ended with an error, in its own words.
    """
    shell, process = _open_verb(cluster, words)
    said = ""
    try:
        yield from process.stdout or ()
    finally:
        said = _close_verb(process)
    shell.raise_for(Answer(process.returncode, "", said))
    if process.returncode != 0:
        first = said.strip().removeprefix("error: ").splitlines()
        raise ServiceError(f"{cluster.cluster_name}: {first[0] if first else f'`raylaunch {words[0]}` ended there'}")


def _open_verb(cluster: ClusterFile, words: Sequence[str]) -> "tuple[HostShell, subprocess.Popen[str]]":
    shell = HostShell.of(cluster)
    return shell, shell.follow_in_head(["sh", "-c", _UNTIL_STDIN_ENDS, "sh", "raylaunch", *words])


def _close_verb(process: "subprocess.Popen[str]") -> str:
    """End a verb by closing its stdin; what it wrote to stderr."""
    assert process.stdin is not None
    process.stdin.close()
    process.stdin = None
    return process.communicate()[1]


def hold_dashboard(cluster: ClusterFile, port: int) -> None:
    """Keep a way to the dashboard open on `port` of this machine until Ctrl-C."""
    token = artifacts.folder_of(cluster.cluster_name) / "token" / "auth_token"
    with HostShell.of(cluster).tunnel(cluster_ports.DASHBOARD, port) as local:
        console.say(
            f"Ray's dashboard: http://127.0.0.1:{local}; it asks for the token in {token}; Ctrl-C closes the way"
        )
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                time.sleep(3600)


@contextlib.contextmanager
def reach_service(cluster: ClusterFile, port: int | None) -> Iterator[tuple[str, str | None]]:
    """The address of the cluster's service on this machine, and its key where this machine has it.

    Raises:
        ServiceError: nothing serves there, or several do and no port was said.
    """
    shell = HostShell.of(cluster)
    if port is None:
        answer = shell.run_in_head(["raylaunch", "status", "--json"])
        if answer.status != 0:
            said = answer.stderr.strip().removeprefix("error: ").splitlines()
            raise ServiceError(
                f"{cluster.cluster_name}: {said[0] if said else 'nothing serves'}",
                fix=f"start it with `raylaunch serve LAUNCH.yaml --cluster {cluster.path}`",
            )
        port = int(str(json.loads(answer.stdout)["url"]).rpartition(":")[2])
    with shell.tunnel(port) as local:
        yield f"http://127.0.0.1:{local}", find_key(cluster, port)
