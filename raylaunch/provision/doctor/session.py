"""A dialogue with one host over one ssh session: first the probe's facts, then the network's part, line by line."""

import importlib.resources
import json
import secrets
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from raylaunch.provision.doctor.probe_facts import Probe, split
from raylaunch.provision.ssh import SSH_FAILED, CommandResult, RemoteProcess, Ssh, SshFailure, read_failure

_FACTS_DEADLINE_S = 17.0
"""Connecting, and the longest of the probe's parts."""
_REQUEST_DEADLINE_S = 5.0


@dataclass(frozen=True, slots=True)
class Listening:
    """Answer to `listen`: ports that the host now listens on, and ports that other programs hold."""

    free: frozenset[int]
    taken: frozenset[int]


@dataclass(frozen=True, slots=True)
class Reach:
    """Answer to `connect_to`."""

    clock: float
    """The host's time in seconds since the epoch."""
    results: tuple[str, ...]
    """Of each target: "open", "refused", "silent" or "unreachable"."""


@dataclass(frozen=True, slots=True)
class ProbeSession:
    """A host that was reached, with what the probe found. Requests may follow where the host has Python."""

    host: str
    probe: Probe
    python: str
    """Path of Python there, or empty."""
    _process: RemoteProcess

    def listen(self, address: str, ports: Sequence[int]) -> Listening | None:
        """Have the host listen on ports until the session is closed; None without an answer in time."""
        answer = self._request({"address": address, "ports": ports}, _REQUEST_DEADLINE_S)
        return Listening(frozenset(answer["listening"]), frozenset(answer["taken"])) if answer else None

    def connect_to(self, targets: Sequence[tuple[str, int]], wait_s: float) -> Reach | None:
        """Have the host connect to all of `targets` (address, port) at once; None without an answer in time."""
        answer = self._request({"targets": targets, "wait_s": wait_s}, _REQUEST_DEADLINE_S + wait_s)
        return Reach(float(answer["clock"]), tuple(map(str, answer["results"]))) if answer else None

    def _request(self, request: object, timeout_s: float) -> Any:
        """The answer of network_probe.py as JSON; None without one."""
        if not self.python:
            return None
        self._process.send(json.dumps(request) + "\n")
        try:
            return json.loads(self._process.read_line(timeout_s) or "null")
        except (TimeoutError, ValueError):
            return None

    def close(self) -> None:
        """End the session, and with it the listeners on the host."""
        self._process.close()


def make_script(arguments: Sequence[str]) -> str:
    """The probe as `bash` reads it from stdin, its arguments set and Python's part at its end."""
    folder = importlib.resources.files("raylaunch.provision.doctor")
    probe = (folder / "probe.sh").read_text(encoding="utf-8")
    network = (folder / "network_probe.py").read_text(encoding="utf-8")
    return f'set -- {shlex.join(arguments)}\n{probe}exec "$python" -u -c {shlex.quote(network)}\n'


def connect(ssh: Ssh, host: str, arguments: Sequence[str]) -> ProbeSession | SshFailure:
    """Reach a host and run the probe there. A session has to be closed; a failure leaves nothing open.

    Args:
        arguments: of probe.sh, after its mark.
    """
    mark = f"@{secrets.token_hex(8)}"
    # In the foreground, so that Ctrl-C stops it at once: it has nothing to finish.
    process = RemoteProcess.start(ssh.command(host, "bash -s", options=ssh.sharing(host)), foreground=True)
    lines: list[str] = []
    until = time.monotonic() + _FACTS_DEADLINE_S
    try:
        process.send(make_script([mark, *arguments]))
        while not (lines and lines[-1].startswith(f"{mark} end")):
            line = process.read_line(until - time.monotonic())
            if line is None:
                break
            lines.append(line)
    except TimeoutError:
        process.close(grace_s=0)
        return SshFailure("slow", f"no answer within {_FACTS_DEADLINE_S:.0f} s")
    text = "".join(lines)
    if f"{mark} begin" not in text:
        return _explain_end(text, process.close())
    if not lines[-1].startswith(f"{mark} end"):
        process.close()
        return SshFailure("slow", "the connection ended in the middle of the probe")
    return ProbeSession(host, split(text, mark), lines[-1].removeprefix(f"{mark} end").strip(), process)


def _explain_end(stdout: str, closed: CommandResult) -> SshFailure:
    """Why a login ended before the probe began."""
    if closed.status == SSH_FAILED:
        return read_failure(closed.stderr)
    last = (closed.stderr.strip() or stdout.strip() or "nothing").splitlines()[-1]
    return SshFailure("shell", f"the login ended with status {closed.status}; it printed: {last}")
