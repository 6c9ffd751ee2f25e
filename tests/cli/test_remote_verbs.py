"""Verbs that go on in the head's container end when the laptop closes their stdin."""

import subprocess

from raylaunch.provision.remote_launch import UNTIL_STDIN_ENDS


def start(script: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        ["sh", "-c", UNTIL_STDIN_ENDS, "sh", "sh", "-c", script],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_it_goes_on_until_stdin_ends() -> None:
    """Its output comes as it is written; the end of stdin ends it with SIGTERM."""
    process = start("echo first; read -r _; echo second; exec sleep 600")
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == "first\n"
    assert process.stdout.readline() == "second\n"
    assert process.poll() is None
    process.stdin.close()
    assert process.wait(30) == 143


def test_its_own_end_is_passed_on() -> None:
    """The exit status is the verb's, though stdin is open still."""
    process = start("echo shown; exit 7")
    assert process.stdout is not None
    assert process.stdout.read() == "shown\n"
    assert process.wait(30) == 7
