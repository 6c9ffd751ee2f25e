"""A dialogue with one host over one ssh session: first the probe's facts, then the network's part, line by line."""

import asyncio
import contextlib
import importlib.resources
import json
import secrets
import shlex
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import IO, Any

from raylaunch.provision.doctor.probe_facts import Probe, split
from raylaunch.provision.ssh import Ssh, SshFailure, read_failure

_FACTS_DEADLINE_S = 17.0
"""Connecting, and the longest of the probe's parts."""
_ORDER_DEADLINE_S = 5.0
_LONGEST_LINE = 1 << 22


@dataclass
class Session:
    """A host that was reached. `probe` is what it told of itself; orders may follow where it has Python."""

    host: str
    probe: Probe
    python: str
    """"" where it has none."""
    _process: asyncio.subprocess.Process = field(repr=False)

    async def order(self, order: dict[str, Any], *, longer_s: float = 0.0) -> dict[str, Any] | None:
        """Send network_probe.py an order and return its answer; None where none comes in time."""
        stdin, stdout = self._process.stdin, self._process.stdout
        if not self.python or stdin is None or stdout is None:
            return None
        try:
            stdin.write(json.dumps(order).encode() + b"\n")
            await stdin.drain()
            line = await asyncio.wait_for(stdout.readline(), _ORDER_DEADLINE_S + longer_s)
            answer = json.loads(line)
        except (TimeoutError, ValueError, ConnectionError):
            return None
        return answer if isinstance(answer, dict) else None

    async def close(self) -> None:
        """End the session, and with it what listens on the host."""
        await _end(self._process)


def make_script(arguments: Sequence[str]) -> str:
    """The probe as `bash` reads it from stdin, its arguments set and Python's part at its end."""
    folder = importlib.resources.files("raylaunch.provision.doctor")
    probe = (folder / "probe.sh").read_text(encoding="utf-8")
    network = (folder / "network_probe.py").read_text(encoding="utf-8")
    return f'set -- {shlex.join(arguments)}\n{probe}exec "$python" -u -c {shlex.quote(network)}\n'


async def connect(ssh: Ssh, host: str, arguments: Sequence[str]) -> Session | SshFailure:
    """Reach a host and have it probed. A session has to be closed; a failure has left nothing.

    Args:
        arguments: of probe.sh, after its mark.
    """
    mark = f"@{secrets.token_hex(8)}"
    with tempfile.TemporaryFile() as stderr:
        process = await asyncio.create_subprocess_exec(
            *ssh.command(host, "bash -s", options=ssh.sharing(host)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
            limit=_LONGEST_LINE,
            start_new_session=True,  # Ctrl-C reaches us alone
        )
        answer: Session | SshFailure | None = None
        try:
            answer = await _probe(process, host, mark, make_script([mark, *arguments]), stderr)
        finally:
            if not isinstance(answer, Session):
                await _end(process)
    return answer


async def _probe(
    process: asyncio.subprocess.Process, host: str, mark: str, script: str, stderr: IO[bytes]
) -> Session | SshFailure:
    assert process.stdin is not None
    assert process.stdout is not None
    lines: list[bytes] = []
    last = f"{mark} end".encode()
    until = time.monotonic() + _FACTS_DEADLINE_S
    try:
        process.stdin.write(script.encode())
        with contextlib.suppress(ConnectionError):  # it is gone already: its words and status tell why
            await process.stdin.drain()
        while not (lines and lines[-1].startswith(last)):
            line = await asyncio.wait_for(process.stdout.readline(), until - time.monotonic())
            if not line:
                break
            lines.append(line)
    except (TimeoutError, ValueError):  # ValueError: a line without end
        return SshFailure("slow", f"no answer within {_FACTS_DEADLINE_S:.0f} s")
    text = b"".join(lines).decode(errors="replace")
    if f"{mark} begin" not in text:
        status = await process.wait()
        stderr.seek(0)
        return _explain(text, stderr.read().decode(errors="replace"), status)
    if not lines[-1].startswith(last):
        return SshFailure("slow", "the session broke off in the middle of the probe")
    end = lines[-1].decode(errors="replace").strip()
    return Session(host, split(text, mark), end.removeprefix(last.decode()).strip(), process)


def _explain(stdout: str, stderr: str, status: int) -> SshFailure:
    if status == 255:
        return read_failure(stderr)
    said = (stderr.strip() or stdout.strip() or "nothing").splitlines()[-1]
    return SshFailure("shell", f"the login ended with status {status}; it said: {said}")


async def _end(process: asyncio.subprocess.Process) -> None:
    """Let the session end by itself (its stdin does), then end it."""
    if process.stdin is not None:
        process.stdin.close()
    for end in (process.terminate, process.kill):
        try:
            await asyncio.wait_for(process.wait(), 1.0)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                end()
    await process.wait()
