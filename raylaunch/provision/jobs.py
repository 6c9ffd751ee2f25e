"""The jobs API of a cluster's head: Ray jobs outlive the connection of the machine that submitted them."""

import asyncio
import logging
import re
import sys
import time
from typing import TYPE_CHECKING

from raylaunch.base import proxies
from raylaunch.base.errors import ClusterError
from raylaunch.config.cluster_file import ClusterFile
from raylaunch.provision import artifacts

if TYPE_CHECKING:
    from ray.job_submission import JobStatus, JobSubmissionClient

_RAYS_LINES = re.compile(r"^(?:.* -- Runtime env is setting up\.|Running entrypoint for job .*)\r?\n", re.M)
"""What Ray's job supervisor writes into a job's log (Ray 2.60)."""


def connect(cluster: ClusterFile, port: int) -> "JobSubmissionClient":
    """A client of the head's jobs API, through the tunnel at `port`.

    Raises:
        ClusterError: the jobs API rejected the token.
    """
    from ray.job_submission import JobSubmissionClient

    token = artifacts.find_token(cluster).read_text().strip()
    proxies.exempt_loopback()  # Ray's client takes the proxies of the environment
    try:
        return JobSubmissionClient(f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {token}"})
    except (ConnectionError, RuntimeError) as error:
        raise ClusterError(
            f"{cluster.head_ip}: Ray's jobs API rejected the token: {str(error).splitlines()[0]}",
            fix=f"another machine started the cluster: `raylaunch down {cluster.shown_path}` and up again from here",
        ) from error


def wait_for_end(client: "JobSubmissionClient", job: str, timeout_s: float) -> "JobStatus | None":
    """The status that a job ended with; None where it still runs after `timeout_s` seconds."""
    deadline = time.monotonic() + timeout_s
    while not (status := client.get_job_status(job)).is_terminal():
        if time.monotonic() > deadline:
            return None
        time.sleep(0.2)
    return status


def follow(client: "JobSubmissionClient", job: str) -> None:
    """Copy the job's log to stderr until the job ends, without Ray's own lines."""
    logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)

    async def copy() -> None:
        async for piece in client.tail_job_logs(job):
            sys.stderr.write(_RAYS_LINES.sub("", piece))
            sys.stderr.flush()

    asyncio.run(copy())
