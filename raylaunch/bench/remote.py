"""`raylaunch bench --cluster`: a load test as a Ray job on the cluster's head, whose files come home.

The API key is read there, from the launch file of the service, so no secret travels; a file of questions goes through
ssh's stdin.
"""

import base64
import binascii
import io
import secrets
import shlex
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path

from raylaunch.base import console
from raylaunch.base.errors import BenchError
from raylaunch.bench import result as result_file
from raylaunch.config import cluster_ports
from raylaunch.config.cluster_file import ClusterFile
from raylaunch.provision import jobs, remote_launch
from raylaunch.provision.host_shell import HostShell

_FOLDER = ".raylaunch/bench"
"""In the container's home: a folder for each run, removed once its files are here."""
_NAME = "bench"
_END_S = 60.0
_FETCH_S = 600.0
_FETCH = 'cd "$HOME/$0" && tar cz bench.json bench.rows.jsonl.gz | base64'
_REMOVE = 'rm -rf "$HOME/$0"'
_INTERRUPT = 'kill -TERM "$(cat "$HOME/$0/pid")"'
"""Ray's own way to stop a job kills it after 3 s (2.60): too soon for a large result to be written. And it starts jobs
with SIGINT ignored."""


def bench(cluster: ClusterFile, words: Sequence[str], *, questions: Path | None, result: Path) -> None:
    """Run `raylaunch bench` on the cluster's head, and bring its result home as `result`, the rows beside it.

    Ctrl-C ends the load test there; what it measured comes home all the same.

    Args:
        words: the arguments, without those that name a file of this machine.
        questions: a file of this machine whose questions are asked; None: as the options choose.

    Raises:
        ClusterError: the cluster is not up, or cannot be written to.
        BenchError: the load test left no result.
    """
    shell = HostShell.of(cluster)
    job = f"bench-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    folder = f"{_FOLDER}/{job}"
    text = questions.read_text(encoding="utf-8") if questions else "\n"
    remote_launch.send_file(shell, text, "questions", folder)
    arguments = [*words, *(["--questions", f"{folder}/questions"] if questions else [])]
    arguments += ["--no-report", "--output", f"{folder}/{_NAME}.json"]
    # What it would print is printed here, once its files are copied.
    command = shlex.join([*remote_launch.viewpoint_of(cluster).to_words(), "raylaunch", "bench", *arguments])
    entrypoint = f"cd && echo $$ >{folder}/pid && exec {command} >/dev/null"
    try:
        with shell.tunnel(cluster_ports.DASHBOARD) as local:
            client = jobs.connect(cluster, local)
            client.submit_job(entrypoint=entrypoint, submission_id=job)
            console.say(f"Ray job {job} on {cluster.head_ip} offers the load")
            try:
                jobs.follow(client, job)
            except KeyboardInterrupt:
                console.say("ending it there; what it measured comes home")
                shell.run_in_head(["sh", "-c", _INTERRUPT, folder])
            if jobs.wait_for_end(client, job, _END_S) is None:
                raise BenchError(
                    f"Ray job {job} does not end", fix=f"`raylaunch dashboard {cluster.shown_path}` shows it"
                )
        _bring_home(shell, folder, result)
    finally:
        shell.run_in_head(["sh", "-c", _REMOVE, folder])


def _bring_home(shell: HostShell, folder: str, result: Path) -> None:
    answer = shell.run_in_head(["sh", "-c", _FETCH, folder], timeout_s=_FETCH_S)
    try:
        with tarfile.open(fileobj=io.BytesIO(base64.b64decode(answer.stdout)), mode="r:gz") as archive:
            found = {member.name: archive.extractfile(member) for member in archive.getmembers()}
            files = {name: file.read() for name, file in found.items() if file is not None}
        result.parent.mkdir(parents=True, exist_ok=True)
        result_file.rows_path(result).write_bytes(files[f"{_NAME}.rows.jsonl.gz"])
        result.write_bytes(files[f"{_NAME}.json"])
    except (tarfile.TarError, binascii.Error, EOFError, KeyError) as error:
        raise BenchError("the load test left no result", fix="its log above has the cause") from error
