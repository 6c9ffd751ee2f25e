"""The user's side of a rig: a home, a cluster file, and `raylaunch doctor` as a user runs it."""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.harness import RAYLAUNCH
from tests.rig.host import Host
from tests.rig.rig import Rig

IMAGE = "raylaunch/test:0.32.0"


@dataclass(frozen=True)
class Found:
    """The answer of doctor: its exit status, and its verdicts."""

    status: int
    verdicts: list[dict[str, Any]]
    seconds: float

    def list_states(self, state: str) -> set[tuple[str, str]]:
        """(check, host) of every verdict with that state."""
        return {(verdict["check"], verdict["host"]) for verdict in self.verdicts if verdict["state"] == state}

    def find(self, check: str, host: str) -> dict[str, Any]:
        (verdict,) = (found for found in self.verdicts if (found["check"], found["host"]) == (check, host))
        return verdict


@dataclass(frozen=True)
class Laptop:
    """Who asks: HOME is a folder of the test's own."""

    rig: Rig
    cluster: Path

    def write_cluster(self, *, user: str = "root", image: str = IMAGE, key: Path | None = None, more: str = "") -> None:
        """Write the cluster file anew; `more` are lines of its docker block."""
        workers = ", ".join(host.address for host in self.rig.workers)
        self.cluster.write_text(
            f"cluster_name: rig\n"
            f"provider:\n  type: local\n  head_ip: {self.rig.head.address}\n  worker_ips: [{workers}]\n"
            f"auth:\n  ssh_user: {user}\n  ssh_private_key: {key or self.rig.key}\n"
            f"docker:\n  image: {image}\n  container_name: raylaunch\n  pull_before_run: false\n"
            f"  run_options: [--gpus all, --ipc=host]\n{more}"
        )

    def run(self, *arguments: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
        """Run `raylaunch doctor` on the cluster file."""
        return subprocess.run(
            [RAYLAUNCH, "doctor", str(self.cluster), *arguments],
            input=stdin, capture_output=True, text=True, check=False, timeout=60, env=os.environ,
        )  # fmt: skip

    def find_host(self, where: str) -> Host:
        """The host on which a fault is made: "head" or "worker"."""
        return self.rig.head if where == "head" else self.rig.workers[0]

    def doctor(self, *arguments: str) -> Found:
        """What doctor finds."""
        done = self.run("--json", *arguments)
        assert done.stdout, done.stderr
        report = json.loads(done.stdout)
        return Found(done.returncode, report["verdicts"], report["seconds"])
