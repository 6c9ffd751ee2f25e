"""What Ray's launcher prints, on a recorded log and on the words of ssh and docker as they end one."""

from pathlib import Path

import pytest

from raylaunch.provision.ray_up_log import read_failure, read_stage

RECORDED = (Path(__file__).parents[1] / "data" / "launcher" / "head-start-failed.log").read_text()


def end_with(said: str) -> str:
    """A log that ends as the recorded one, for another reason."""
    return f"[1/7] Waiting for SSH to become available\n{said}\nERR updater.py:177 -- New status: update-failed\n"


def test_stage_is_the_last_step() -> None:
    assert read_stage(RECORDED) == "starting Ray"
    assert read_stage("") == "beginning"
    assert read_stage(RECORDED.replace("7/7", "4/7")) == "seeing to the image"


def test_failure_is_told_without_the_launchers_chatter() -> None:
    """The real error, not "SSH command failed"; neither tracebacks nor commands nor colours in the excerpt."""
    failure = read_failure(RECORDED)
    assert "JSONDecodeError: Expecting property name" in failure.what
    assert "Failed to load {GPU:2}" in failure.excerpt
    text = "\n".join(failure.excerpt)
    assert not [word for word in ("\x1b", "Traceback", "Running `", "Shared connection", "updater.py") if word in text]


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ("ubuntu@10.0.0.2: Permission denied (publickey).", "ssh refuses the key"),
        ("ssh: connect to host 10.0.0.2 port 22: Connection refused", "no sshd there"),
        ("ssh: connect to host 10.0.0.2 port 22: No route to host", "does not answer to ssh"),
        ("Exception: wait_ready timeout exceeded.", "does not answer to ssh"),
        ("Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is it running?", "daemon does not run"),
        ("bash: line 1: docker: command not found", "not installed"),
        ("docker: write /var/lib/docker/tmp/x: no space left on device", "disk is full"),
        ("Error response from daemon: pull access denied for raylaunch", "image is not there"),
        ('Conflict. The container name "/raylaunch" is already in use by container "f00"', "container of that name"),
        ("OSError: [Errno 98] Address already in use", "port of Ray's is taken"),
        ('could not select device driver "" with capabilities: [[gpu]]', "cannot hand out GPUs"),
    ],
)
def test_causes(said: str, cause: str) -> None:
    """Each in words, with something to do where the words do not say it."""
    assert cause in read_failure(end_with(said), "10.0.0.2").what


def test_an_empty_log_is_no_error_of_ours() -> None:
    assert read_failure("").what == "it said nothing"
