"""Run ssh: the only module that does. It connects as Ray's launcher does, but refuses an unknown host key.

Ray's launcher connects with StrictHostKeyChecking=no and sends the private key to the head. Whatever machine answers at
that address gets the key, so the host keys are checked here first.
"""

import contextlib
import queue
import re
import shlex
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

from raylaunch.config.cluster_file import ClusterFile

CONNECT_TIMEOUT_S = 6
_STREAM_END_S = 60.0
SSH_FAILED = 255
"""ssh's own exit status where it, and not the command, failed."""
_LONGEST_LINE = 1 << 22
"""Characters; longer lines are read in pieces, so that a host cannot fill this machine's memory with one line."""
_LIGHT_EXCHANGE = "KexAlgorithms=^curve25519-sha256"
"""First choice of the probe's sessions. OpenSSH's default, against quantum computers, costs this machine 90 ms of CPU
for each session, this one 13 (OpenSSH 9.2): with 32 hosts, that is most of the CPU time of a doctor run here."""


@dataclass(frozen=True, slots=True)
class SshFailure:
    """Why a host cannot be reached."""

    kind: str
    """One of FAILURES."""
    message: str
    """ssh's last line."""


@dataclass(frozen=True, slots=True)
class CommandResult:
    """Exit status and output of a command on a host."""

    status: int
    stdout: str = ""
    stderr: str = ""
    timed_out: bool = False

    @property
    def unreachable(self) -> bool:
        """Whether ssh failed, and not the command."""
        return self.status == SSH_FAILED

    @property
    def failure(self) -> SshFailure:
        """Why ssh failed; only meaningful where `unreachable`."""
        return SshFailure("slow", self.stderr) if self.timed_out else read_failure(self.stderr)


@dataclass
class RemoteProcess:
    """A program on a host: stdout is read line by line, closing its stdin makes it exit."""

    popen: "subprocess.Popen[str]"
    _stderr: IO[str]
    _lines: "queue.Queue[str | None]"
    _result: CommandResult | None = None

    @classmethod
    def start(cls, command: Sequence[str], *, backlog: int = 0, foreground: bool = False) -> Self:
        """Start an ssh command.

        Args:
            backlog: lines that are kept unread before the program has to wait; 0 is no limit.
            foreground: whether Ctrl-C reaches it.
        """
        stderr = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 (`close` closes it)
        popen = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            encoding="utf-8",
            errors="replace",
            start_new_session=not foreground,
        )
        process = cls(popen, stderr, queue.Queue(backlog))
        threading.Thread(target=process._read, daemon=True).start()
        return process

    def _read(self) -> None:
        stdout = self.popen.stdout
        assert stdout is not None
        for line in iter(lambda: stdout.readline(_LONGEST_LINE), ""):
            self._lines.put(line)
        self._lines.put(None)

    def is_running(self) -> bool:
        """Whether ssh still runs."""
        return self.popen.poll() is None

    def send(self, text: str) -> None:
        """Write to the program's stdin; does nothing where the program has exited."""
        assert self.popen.stdin is not None
        with contextlib.suppress(ConnectionError):
            self.popen.stdin.write(text)
            self.popen.stdin.flush()

    def read_line(self, timeout_s: float | None = None) -> str | None:
        """The next line of stdout with its newline, or None at the end.

        Raises:
            TimeoutError: none came in time.
        """
        try:
            line = self._lines.get(timeout=None if timeout_s is None else max(0.0, timeout_s))
        except queue.Empty:
            raise TimeoutError from None
        if line is None:
            self._lines.put(None)  # the end stays the end
        return line

    def read_newest_line(self, timeout_s: float) -> str | None:
        """The last line that came, after waiting for one; earlier unread lines are dropped."""
        line = self.read_line(timeout_s)
        while line is not None and not self._lines.empty():
            line = self.read_line()
        return line

    def read_lines(self) -> Iterator[str]:
        """The lines of stdout until it ends."""
        while (line := self.read_line()) is not None:
            yield line

    def close(self, grace_s: float = 1.0) -> CommandResult:
        """Close stdin, wait `grace_s` for the exit, then force it; status and stderr, also when called again."""
        if self._result is not None:
            return self._result
        assert self.popen.stdin is not None
        with contextlib.suppress(ConnectionError):
            self.popen.stdin.close()
        for stop in (self.popen.terminate, self.popen.kill):
            try:
                self.popen.wait(grace_s)
                break
            except subprocess.TimeoutExpired:
                stop()
                grace_s = 1.0
        status = self.popen.wait()
        with self._stderr:
            self._stderr.seek(0)
            self._result = CommandResult(status, stderr=self._stderr.read())
        return self._result


@dataclass(frozen=True, slots=True)
class Ssh:
    """How the hosts of one cluster are reached."""

    user: str
    key: Path | None
    proxy_command: str | None
    sockets: Path
    """Folder for the sockets of shared connections: private, and its path short (a socket's has 104 bytes at most)."""

    @classmethod
    def of(cls, cluster: ClusterFile, sockets: Path = Path("/nonexistent")) -> Self:
        """As the cluster file configures it; without `sockets`, connections cannot be shared."""
        return cls(cluster.ssh_user, cluster.ssh_private_key, cluster.ssh_proxy_command, sockets)

    def command(
        self, host: str, remote: str = "", *, options: Sequence[str] = (), only_key: bool = False, forward: str = ""
    ) -> list[str]:
        """The arguments of an ssh that never prompts and gives up on a dead connection.

        Args:
            only_key: do not use keys of an agent, which no other machine has.
            forward: "LOCAL REMOTE" of a port to forward; then no command is run.
        """
        home = Path.home() / ".ssh"  # ssh itself takes the home folder of the user database; here HOME counts
        configured = [
            *("BatchMode=yes", "LogLevel=ERROR", "StrictHostKeyChecking=yes"),
            f"UserKnownHostsFile={home / 'known_hosts'} {home / 'known_hosts2'}",
            f"ConnectTimeout={CONNECT_TIMEOUT_S}",
            *("ServerAliveInterval=5", "ServerAliveCountMax=3"),
            *(("ExitOnForwardFailure=yes", f"LocalForward={forward}") if forward else ("ClearAllForwardings=yes",)),
            *(("IdentitiesOnly=yes",) if self.key else ()),
            *(("IdentityAgent=none",) if only_key else ()),
        ]
        if self.proxy_command and not any("ProxyCommand" in option for option in options):
            configured.append(f"ProxyCommand={self.proxy_command}")
        key = ["-i", str(self.key)] if self.key else []
        words = [word for option in [*configured, *options] for word in ("-o", option)]
        last = [remote] if remote else []
        return ["ssh", "-N" if forward else "-T", *key, *words, "--", f"{self.user}@{host}", *last]

    def run(
        self,
        host: str,
        command: str,
        *,
        stdin: str | Path = "",
        timeout_s: float = 60.0,
        options: Sequence[str] = (),
        only_key: bool = False,
    ) -> CommandResult:
        """Run a shell command on a host; one that takes longer than `timeout_s` counts as an unreachable host.

        Args:
            stdin: text, or a file of this machine.
        """
        with stdin.open("rb") if isinstance(stdin, Path) else contextlib.nullcontext() as file:
            try:
                done = subprocess.run(
                    self.command(host, command, options=options, only_key=only_key),
                    stdin=file,
                    input=stdin.encode() if isinstance(stdin, str) else None,
                    capture_output=True,
                    timeout=timeout_s,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                return CommandResult(SSH_FAILED, "", f"no answer within {timeout_s:.0f} s", timed_out=True)
        return CommandResult(
            done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
        )

    def stream(self, host: str, command: str) -> int:
        """Run a shell command on a host with its output to ours; its exit status.

        Ctrl-C closes its stdin, which has to end it.
        """
        process = subprocess.Popen(self.command(host, command), stdin=subprocess.PIPE, start_new_session=True)
        assert process.stdin is not None
        try:
            return process.wait()
        finally:
            process.stdin.close()
            try:
                process.wait(_STREAM_END_S)
            except subprocess.TimeoutExpired:
                process.kill()

    def sharing(self, host: str) -> list[str]:
        """Options with which the first session to a host lets others share its connection."""
        return [f"ControlPath={self._socket(host)}", "ControlMaster=yes", _LIGHT_EXCHANGE]

    def through(self, head: str) -> list[str]:
        """Options that reach a host from `head`, through the open connection to it, on the port that Ray uses there."""
        way = ["ssh", "-o", f"ControlPath={self._socket(head)}", "-o", "ControlMaster=no", "-W", "%h:%p"]
        return [f"ProxyCommand={shlex.join([*way, '--', f'{self.user}@{head}'])}", "Port=22", _LIGHT_EXCHANGE]

    def _socket(self, host: str) -> Path:
        return self.sockets / re.sub(r"[^\w.-]", "_", host)[:40]


_SIGNS = (
    ("name", r"Could not resolve hostname|Name or service not known|nodename nor servname"),
    (
        "key file",
        r"UNPROTECTED PRIVATE KEY|bad permissions|Load key .*(invalid format|error in libcrypto)|incorrect passphrase",
    ),
    ("changed host key", r"REMOTE HOST IDENTIFICATION HAS CHANGED|host key for .* has changed|Offending .* key in"),
    ("host key", r"Host key verification failed|No \S+ host key is known"),
    ("key", r"Permission denied|Too many authentication failures"),
    ("refused", r"Connection refused"),
    ("route", r"No route to host|Network is unreachable|timed out|Host is down"),
    ("closed", r"Connection (closed|reset)|kex_exchange_identification|Broken pipe"),
)
FAILURES = (*(kind for kind, _ in _SIGNS), "slow", "shell", "other")
"""Kinds of failure: "slow" is a connection without an answer in time, "shell" a login that runs no command."""


def read_failure(stderr: str) -> SshFailure:
    """What ssh's error output means."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip() and not line.startswith(("@", "Warning:"))]
    kind = next((kind for kind, pattern in _SIGNS if re.search(pattern, stderr)), "other")
    names = [line for line in lines if kind == "name" and re.search(_SIGNS[0][1], line)]  # it may be a jump host's
    return SshFailure(kind, (names or lines or ["ssh printed no message"])[-1])
