"""A service on a cluster, from the laptop: `serve`, `status`, `stop`, `ask` and `logs` with --cluster.

`serve` runs on the head as a Ray job, so that it outlives this machine's connection; the other verbs run in the head's
container. Secrets go through ssh's stdin into files of mode 0600, and appear in no argument, job or log.
"""

import contextlib
import json
import secrets
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from raylaunch.base import console, paths
from raylaunch.base.errors import ExitCode, ServiceError
from raylaunch.base.viewpoint import Viewpoint
from raylaunch.config import cluster_ports, launch_file
from raylaunch.config.cluster_file import ClusterFile
from raylaunch.config.launch import LaunchConfig
from raylaunch.config.layers import IMAGE_VARIABLE, name_lock
from raylaunch.provision import artifacts, jobs
from raylaunch.provision.host_shell import HostShell
from raylaunch.provision.remote_launch import (
    LAUNCHES,
    UNTIL_STDIN_ENDS,
    find_image,
    name_job,
    read_error,
    read_key,
    send_file,
    send_launch,
    viewpoint_of,
)
from raylaunch.provision.ssh import RemoteProcess

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

_STOP_TIMEOUT_S = 180.0
_POLL_S = 2.0
_BACKLOG = 1000
"""Lines of a verb that are kept while this process is slow to print them."""


def serve(cluster: ClusterFile, launch: LaunchConfig, *, rehearse: bool, detach: bool, with_key: bool) -> str:
    """Serve a launch on the cluster and follow its log until it ends; Ctrl-C stops following, not the service.

    Returns:
        The Ray job.

    Args:
        detach: return once the job is submitted.
        with_key: give the API a key where the launch configures none.

    Raises:
        ClusterError: the cluster is not up.
        ServiceError: the service failed.
    """
    shell, view = HostShell.of(cluster), viewpoint_of(cluster, launch)
    if with_key and not launch.api_keys:
        launch = give_key(cluster, launch)
        view = replace(view, key_file=str(artifacts.find_key(cluster, launch.port)))
    job = name_job("serve", launch)
    send_launch(shell, launch, job)
    image = ""
    if launch.path is not None and (lock := name_lock(launch.path)).is_file():
        send_file(shell, lock.read_text(encoding="utf-8"), f"{job}.lock.yaml")
        image = find_image(shell)
    with shell.tunnel(cluster_ports.DASHBOARD) as port:
        client = jobs.connect(cluster, port)
        if view.key_file:
            keep_key(cluster, launch)
        try:
            client.submit_job(entrypoint=make_entrypoint(job, view, rehearse=rehearse, image=image), submission_id=job)
            console.say(f"Ray job {job} on {cluster.head_ip} starts {launch.served_model_names[0]}")
            if detach:
                console.say(f"it loads now; {_describe_verbs(view, launch.port)}")
                return job
            jobs.follow(client, job)
        except KeyboardInterrupt:
            console.say(f"the service keeps running; {_describe_verbs(view, launch.port)}")
            return job
        _raise_for_end(client, job, view)
        return job


def wait_until_ready(cluster: ClusterFile, job: str, port: int, timeout_s: float) -> None:
    """Wait until the service of a job of `serve` answers.

    Raises:
        ServiceError: it ended, or is not ready in time.
    """
    shell, deadline = HostShell.of(cluster), time.monotonic() + timeout_s
    with shell.tunnel(cluster_ports.DASHBOARD) as local, console.waiting(f"loading on {cluster.head_ip}"):
        client = jobs.connect(cluster, local)
        while time.monotonic() < deadline:
            if jobs.wait_for_end(client, job, _POLL_S) is not None:
                what, fix = read_error(client.get_job_logs(job))
                raise ServiceError(what or "the service ended", fix=fix)
            with contextlib.suppress(ServiceError):  # it has not begun to serve
                if query_status(cluster, port).is_ready:
                    return
    raise ServiceError(f"the service is not ready after {timeout_s:.0f} s")


def make_entrypoint(job: str, view: Viewpoint, *, rehearse: bool, image: str = "") -> str:
    """What the job runs: `raylaunch serve` with a launch file of its own, which goes with it.

    A file for each job, not for each port: a job that is refused leaves alone what the running service reads again.

    Args:
        image: the container's, to be compared with the lock file.
    """
    file = f"~/{LAUNCHES}/{job}"
    words = [*view.to_words(), *([f"{IMAGE_VARIABLE}={image}"] if image else []), "raylaunch", "serve"]
    command = f"{shlex.join(words)} {file}.yaml{' --rehearse' if rehearse else ''}"
    return f"{command}; status=$?; rm -f {file}.yaml {file}.lock.yaml; exit $status"


def _describe_verbs(view: Viewpoint, port: int) -> str:
    """The next commands, each on a line of its own."""
    ask = ("ask", "Who are you?")
    verbs = {"its log": ("logs", "-f"), "its state": ("status",), "once it is ready": ask, "end it": ("stop",)}
    lines = [f"  {view.command(*words, f'--port={port}')}  # {what}" for what, words in verbs.items()]
    return "\n".join(["next:", *lines])


def give_key(cluster: ClusterFile, launch: LaunchConfig) -> LaunchConfig:
    """The launch with an API key: this machine's for that port, else a new one, which `keep_key` keeps."""
    key = read_key(cluster, launch.port) or f"sk-{secrets.token_hex(24)}"
    return launch_file.with_values(launch, {"server.api_key": key}, why="generated")


def keep_key(cluster: ClusterFile, launch: LaunchConfig) -> None:
    """Keep the launch's key here, once the cluster is known to be up."""
    path = artifacts.find_key(cluster, launch.port)
    if not path.exists():
        paths.write_private(path, launch.api_keys[0])
    console.say(f"the API asks for the key in this file (--open-api turns that off):\n  {path}")


def _raise_for_end(client: "JobSubmissionClient", job: str, view: Viewpoint) -> None:
    status = jobs.wait_for_end(client, job, 10.0)
    if status is None:
        raise ServiceError(f"Ray job {job}: its log ended, but it still runs", fix=f"`{view.command('status')}`")
    if str(status) == "SUCCEEDED":
        return
    code = client.get_job_info(job).driver_exit_code
    if code == ExitCode.FAILED:  # `raylaunch serve` there has printed the cause and what to do
        raise ServiceError(f"the service on {view.head} ended: its error is above")
    message = (client.get_job_info(job).message or str(status)).splitlines()[0].partition(", last available logs")[0]
    raise ServiceError(f"Ray job {job} ended: {message}", fix=f"`{view.command('logs')}` shows the engine's log")


def _write_verb(cluster: ClusterFile, words: Sequence[str], port: int | None) -> list[str]:
    """A verb of raylaunch as the head's container runs it; `port` is that of the service, where several run."""
    return [*viewpoint_of(cluster).to_words(), "raylaunch", *words, *([] if port is None else [f"--port={port}"])]


def run_verb(cluster: ClusterFile, words: Sequence[str], port: int | None = None) -> int:
    """Run a verb of raylaunch in the head's container and print its output; its exit status."""
    with console.waiting(f"{words[0]} on {cluster.head_ip}"):
        result = HostShell.of(cluster).run_in_head(_write_verb(cluster, words, port), timeout_s=_STOP_TIMEOUT_S)
    sys.stdout.write(result.stdout)
    sys.stderr.write(result.stderr)
    return result.status


def follow_verb(cluster: ClusterFile, words: Sequence[str], port: int | None) -> int:
    """Run a verb in the head's container and print its output as it comes, until it ends or Ctrl-C; its status."""
    shell, process = _start_verb(cluster, words, port)
    try:
        for line in process.read_lines():
            sys.stdout.write(line)
            sys.stdout.flush()
    except KeyboardInterrupt:
        console.say(f"\nthe service keeps running; `{viewpoint_of(cluster).command('stop')}` ends it")
    result = process.close(_STOP_TIMEOUT_S)
    shell.raise_for(result)
    sys.stderr.write(result.stderr)
    return 0 if result.status in (0, 143) else result.status


def read_lines(cluster: ClusterFile, words: Sequence[str], port: int | None = None) -> Iterator[str]:
    """The lines that a verb prints in the head's container, as they come; closing the iterator stops it.

    Raises:
        ClusterError: the cluster is not up.
        ServiceError: the verb failed, with its message.
    """
    shell, process = _start_verb(cluster, words, port)
    try:
        yield from process.read_lines()
    finally:
        result = process.close(_STOP_TIMEOUT_S)
    shell.raise_for(result)
    if result.status != 0:
        what, fix = read_error(result.stderr)
        raise ServiceError(what or f"{cluster.head_ip}: `raylaunch {words[0]}` failed there", fix=fix)


@dataclass(frozen=True, slots=True)
class RemoteStatus:
    """What `raylaunch status` reports of a service on the head."""

    port: int
    is_ready: bool
    requests_running: int | None
    is_rehearsal: bool


def query_status(cluster: ClusterFile, port: int | None) -> RemoteStatus:
    """The status of the cluster's service.

    Raises:
        ClusterError: the cluster is not up.
        ServiceError: no service runs there, or several do and no port is given.
    """
    found = json.loads("".join(read_lines(cluster, ["status", "--json"], port)))
    its_port = int(str(found["url"]).rpartition(":")[2])
    return RemoteStatus(its_port, found["ready"], found["requests_running"], bool(found["rehearsal"]))


def _start_verb(cluster: ClusterFile, words: Sequence[str], port: int | None) -> tuple[HostShell, RemoteProcess]:
    shell = HostShell.of(cluster)
    command = ["sh", "-c", UNTIL_STDIN_ENDS, "sh", *_write_verb(cluster, words, port)]
    return shell, shell.start_in_head(command, backlog=_BACKLOG)


def hold_dashboard(cluster: ClusterFile, port: int) -> None:
    """Forward `port` of this machine to the dashboard until Ctrl-C."""
    with HostShell.of(cluster).tunnel(cluster_ports.DASHBOARD, port) as local:
        console.say(
            f"Ray's dashboard: http://127.0.0.1:{local}; it asks for the token in {artifacts.find_token(cluster)}; "
            "Ctrl-C closes the tunnel"
        )
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                time.sleep(3600)


@dataclass(frozen=True, slots=True)
class ReachedService:
    """A cluster's service, through a tunnel."""

    url: str
    """On this machine."""
    name: str
    """Its URL at the head, for messages."""
    key: str | None
    """Its API key, where this machine keeps it."""


@contextlib.contextmanager
def reach_service(cluster: ClusterFile, port: int | None) -> Iterator[ReachedService]:
    """Reach the cluster's service from this machine.

    Raises:
        ServiceError: no service runs there, or several do and no port is given.
    """
    if port is None:
        port = query_status(cluster, None).port
    with HostShell.of(cluster).tunnel(port) as local:
        name = f"http://{cluster.head_ip}:{port}"
        yield ReachedService(f"http://127.0.0.1:{local}", name, read_key(cluster, port))
