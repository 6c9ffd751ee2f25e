"""A cluster file, and an `ssh` first on PATH that records its arguments and answers as a test configures it."""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from raylaunch.config import cluster_file
from raylaunch.config.cluster_file import ClusterFile
from raylaunch.provision import template
from raylaunch.provision.host_shell import HostShell

HEAD, WORKER = "10.0.0.1", "10.0.0.2"


@dataclass(frozen=True)
class Call:
    """One run of ssh."""

    argv: list[str]
    host: str
    command: str
    stdin: str


@dataclass
class FakeSsh:
    """Answers of the `ssh` on PATH; fake_ssh.py is that program."""

    folder: Path
    _count: int = field(default=0)

    def answer(
        self, text: str, *, host: str = "", stdout: str = "", stderr: str = "", status: int = 0, **more: object
    ) -> None:
        """Answer every command that holds `text`; earlier answers come first.

        Args:
            more: once=True for one command only; stays=True to run until stdin ends; quits=True to leave stdin unread;
                here=True to run the command on this machine; sleep_s; probe: a file of recorded output of the probe.
        """
        self._count += 1
        answer = {"text": text, "host": host, "stdout": stdout, "stderr": stderr, "status": status, **more}
        (self.folder / f"answer-{self._count:03}.json").write_text(json.dumps(answer))

    @property
    def calls(self) -> list[Call]:
        """What was run, in the order of the starts."""
        files = sorted(self.folder.glob("call-*.json"), key=lambda file: file.name)
        return [Call(**json.loads(file.read_text())) for file in files]

    def list_commands(self, host: str = "") -> list[str]:
        return [call.command for call in self.calls if host in ("", call.host)]


@pytest.fixture
def fake_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSsh:
    folder = tmp_path / "ssh"
    (folder / "bin").mkdir(parents=True)
    program = folder / "bin" / "ssh"
    script = Path(__file__).with_name("fake_ssh.py")
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -S -E {script} {folder} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", "/home/mia")
    return FakeSsh(folder)


@pytest.fixture
def cluster(tmp_path: Path) -> ClusterFile:
    """Two hosts of user mia, with key /keys/id."""
    plan = template.ClusterPlan(hosts=(HEAD, WORKER), user="mia", name="test", key="/keys/id")
    template.write(plan, tmp_path / "cluster.yaml")
    return cluster_file.load(tmp_path / "cluster.yaml")


@pytest.fixture
def shell(cluster: ClusterFile, fake_ssh: FakeSsh) -> HostShell:
    """The cluster's hosts, reached by the fake ssh."""
    return HostShell.of(cluster)


@pytest.fixture
def add_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Put a shell script first on PATH."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def add(name: str, script: str) -> None:
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)

    return add
