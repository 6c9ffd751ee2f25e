"""What Ray's launcher prints, on a recorded log and on messages of ssh and docker that end one."""

from pathlib import Path

import pytest

from raylaunch.provision.ray_up_log import read_failure, read_stage

RECORDED = (Path(__file__).parents[1] / "data" / "launcher" / "head-start-failed.log").read_text()


def end_with(message: str) -> str:
    """A log that ends as the recorded one, for another reason."""
    return f"[1/7] Waiting for SSH to become available\n{message}\nERR updater.py:177 -- New status: update-failed\n"


def test_stage_is_the_last_step() -> None:
    assert read_stage(RECORDED) == "starting Ray"
    assert read_stage("") == "starting"
    assert read_stage(RECORDED.replace("7/7", "4/7")) == "preparing the image"


def test_failure_leaves_out_the_launchers_chatter() -> None:
    """The real error, not "SSH command failed"; neither tracebacks nor commands nor colours in the excerpt."""
    failure = read_failure(RECORDED)
    assert "JSONDecodeError: Expecting property name" in failure.what
    assert "Failed to load {GPU:2}" in failure.excerpt
    text = "\n".join(failure.excerpt)
    assert not [word for word in ("\x1b", "Traceback", "Running `", "Shared connection", "updater.py") if word in text]


@pytest.mark.parametrize(
    ("message", "cause"),
    [
        ("ubuntu@10.0.0.2: Permission denied (publickey).", "ssh refuses the key"),
        ("ssh: connect to host 10.0.0.2 port 22: Connection refused", "no sshd there"),
        ("ssh: connect to host 10.0.0.2 port 22: No route to host", "no answer to ssh"),
        ("Exception: wait_ready timeout exceeded.", "no answer to ssh"),
        ("Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is it running?", "daemon is not running"),
        ("bash: line 1: docker: command not found", "not installed"),
        ("docker: write /var/lib/docker/tmp/x: no space left on device", "disk is full"),
        ("Error response from daemon: pull access denied for raylaunch", "image is missing"),
        (
            'Conflict. The container name "/raylaunch" is already in use by container "f00"',
            "container of that name exists",
        ),
        ("OSError: [Errno 98] Address already in use", "another process has that port"),
        ('could not select device driver "" with capabilities: [[gpu]]', "cannot pass on GPUs"),
    ],
)
def test_causes(message: str, cause: str) -> None:
    """Each known message has its cause."""
    assert cause in read_failure(end_with(message), "10.0.0.2").what


def test_an_empty_log_has_no_cause() -> None:
    assert read_failure("").what == "it printed no message"
