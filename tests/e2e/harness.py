"""Run `raylaunch` as a user does: a process, its terminal output, signals, and what it leaves behind."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

RAYLAUNCH = str(Path(sys.executable).parent / "raylaunch")
READY_DEADLINE_S = 420.0
END_DEADLINE_S = 60.0
MARK = "RAYLAUNCH_HOME"
"""In the environment of every process of a service, directly started or not: how leftovers are found."""


def find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run(*arguments: str, home: Path, timeout_s: float = 120.0, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run one `raylaunch` command to its end."""
    return subprocess.run(
        [RAYLAUNCH, *arguments],
        env=os.environ | {MARK: str(home)} | environ,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        stdin=subprocess.DEVNULL,
        check=False,
    )


def list_processes(home: Path) -> dict[int, str]:
    """pid -> command line of every living process whose environment names this home."""
    mark = f"{MARK}={home}".encode()
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                found[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")[:160]
    return found


def find_processes(home: Path, *texts: str) -> list[int]:
    """Pids of this home's processes whose command line, or the title that replaces it, contains all these texts."""
    found = []
    for pid in sorted(list_processes(home)):
        with contextlib.suppress(OSError):  # gone meanwhile
            command = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
            found += [pid] if all(text in command for text in texts) else []
    return found


def list_shared_memory() -> set[str]:
    """Shared-memory files and sockets that engines make on this machine."""
    sockets = {entry.name for entry in Path("/tmp").iterdir() if entry.is_socket()}
    return sockets | {entry.name for entry in Path("/dev/shm").iterdir()}


@dataclass
class Serving:
    """A running `raylaunch serve`."""

    process: "subprocess.Popen[str]"
    output: Path
    home: Path
    url: str

    def text(self) -> str:
        return self.output.read_text()

    def wait_for(self, pattern: str, deadline_s: float = READY_DEADLINE_S) -> str:
        """Wait until the output matches, and return the match."""
        until = time.monotonic() + deadline_s
        while time.monotonic() < until:
            if found := re.search(pattern, self.text(), re.MULTILINE):
                return found.group(0)
            if self.process.poll() is not None:
                raise AssertionError(f"serve ended with {self.process.returncode}:\n{self.text()}\n{self.engine_log()}")
            time.sleep(0.2)
        raise AssertionError(f"no {pattern!r} within {deadline_s} s:\n{self.text()}\n{self.engine_log()}")

    def wait_ready(self) -> None:
        self.wait_for("ends it$")

    def engine_log(self) -> str:
        logs = sorted(self.home.glob("services/*/engine.log"))
        return "\n".join(logs[-1].read_text(errors="replace").splitlines()[-60:]) if logs else "(no engine.log)"

    def end(self, number: signal.Signals = signal.SIGINT) -> int:
        """Send one signal and wait for the exit code."""
        self.process.send_signal(number)
        return self.process.wait(timeout=END_DEADLINE_S)

    def wait_gone(self, deadline_s: float = 15.0) -> dict[int, str]:
        """Processes of the service that are left after the deadline."""
        until = time.monotonic() + deadline_s
        while (left := list_processes(self.home)) and time.monotonic() < until:
            time.sleep(0.2)
        return left


@contextlib.contextmanager
def serving(home: Path, *arguments: str, port: int | None = None, **environ: str) -> Iterator[Serving]:
    """Start `raylaunch serve`; whatever happens in the test, nothing of it is left afterwards."""
    port = port or find_free_port()
    home.mkdir(parents=True, exist_ok=True)
    output = home / "serve.txt"
    with output.open("w") as stream:
        process = subprocess.Popen(
            [RAYLAUNCH, "serve", *arguments, "--set", f"server.port={port}"],
            env=os.environ | {MARK: str(home)} | environ,
            stdout=stream,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
    served = Serving(process, output, home, f"http://127.0.0.1:{port}")
    try:
        yield served
    finally:
        if process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                served.end(signal.SIGTERM)
        for pid in list_processes(home):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
