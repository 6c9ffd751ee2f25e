"""Options of `docker run` in a cluster file: what docker's own client refuses is refused before a host is asked."""

import shlex
import shutil
import subprocess

import pytest

from raylaunch.config.docker_values import find_refused
from raylaunch.config.gpu_request import GpuRequest
from raylaunch.config.run_options import RunOptions

REFUSED = {
    "--gpus=": "no value",
    "--gpus nvidia.com/gpu=0": "does not know nvidia.com/gpu",
    "--gpus \u201cdevice=0\u201d": "does not know \u201cdevice",
    "--shm-size=10,24g": "docker reads a number with",
    "--shm-size=10Gi": "docker reads a number with",
    "--memory -1": "docker reads a number with",
    "--ulimit memlock": "such as memlock=-1",
    "--ulimit memlock=unlimited": "such as memlock=-1",
    "--restart unless-stopped": "--rm",
    "--mount type=bind,source=/data": "no target",
    "-v /data:": "path in the container is missing",
    "--gpu all": "did you mean --gpus?",
    "--volumes /a:/b": "did you mean --volume?",
}
"""Refused by docker's client and by raylaunch -> a part of what raylaunch says."""
REFUSED_BY_HOST = {
    "--shm-size=64": "write 64g",
    "--entrypoint bash": 'write --entrypoint ""',
    "-v models/x:/m": "starts with /",
    "-v '~/models:/models'": "write $HOME",
    "--volume=~/models:/models": "write $HOME",
    "--mount type=bind,source=~/models,target=/models": "write $HOME",
}
"""What docker's client passes on, and what fails on the host, or in the container."""
TAKEN = (
    "--gpus all", "--gpus device=nvidia.com/gpu=0", "--gpus all,capabilities=utility", "--shm-size=10.24g",
    "--shm-size=10GiB", "--shm-size=1e9", "--memory=8GB", "--memory 1g --memory-swap -1", "--ulimit memlock=-1:-1",
    "--ulimit stack=67108864", "--restart no", "--mount type=bind,src=/data,dst=/d", "-v ./m:/m", "-v ~/m:/m",
    "-v models:/m", "-v /data", '--entrypoint ""', "--net host", "--env-file /dev/null", "--device nvidia.com/gpu=all",
    "--mount type=tmpfs,destination=/x,tmpfs-size=1g", "--hostname x", "--group-add video", "-i --cap-add=IPC_LOCK",
)  # fmt: skip


def judge(line: str) -> list[str]:
    """What raylaunch finds."""
    options = RunOptions.parse([line])
    try:
        GpuRequest.read(options, ())
    except ValueError as error:
        return [str(error)]
    return list(find_refused(options.options, [line]))


@pytest.mark.parametrize(("line", "part"), [*REFUSED.items(), *REFUSED_BY_HOST.items()])
def test_refused_options_are_named(line: str, part: str) -> None:
    """One sentence for each, which says what to write."""
    [problem] = judge(line)
    assert part in problem


@pytest.mark.parametrize("line", TAKEN)
def test_options_that_docker_takes_are_taken(line: str) -> None:
    assert judge(line) == []


@pytest.mark.skipif(not shutil.which("docker"), reason="needs docker's client")
def test_docker_s_client_agrees() -> None:
    """Without a daemon: the client refuses the first list and passes the others on."""
    for line in (*REFUSED, *TAKEN, *REFUSED_BY_HOST):
        command = ["docker", "-H", "unix:///nowhere", "run", "--rm", *shlex.split(line), "image", "bash"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
        assert ("Cannot connect" not in done.stderr) == (line in REFUSED), (line, done.stderr)
