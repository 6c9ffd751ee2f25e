"""ssh as Ray's launcher uses it, but for one thing: an unknown host gets no session.

Ray's launcher connects with StrictHostKeyChecking=no and sends the private key to the head. Whoever answers at that
address gets it: so the host keys are looked at here, once, before.
"""

import re
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from raylaunch.config.cluster_file import ClusterFile

CONNECT_TIMEOUT_S = 6
_LIGHT_EXCHANGE = "KexAlgorithms=^curve25519-sha256"
"""First choice of sessions that only look. OpenSSH's own, against quantum computers, costs this machine 90 ms of CPU
for each session, this one 13 (OpenSSH 9.2): with 32 hosts, most of what looking at them costs here."""


@dataclass(frozen=True, slots=True)
class SshFailure:
    """Why a host cannot be reached: kind is one of FAILURES' keys, `said` ssh's own last line."""

    kind: str
    said: str


@dataclass(frozen=True, slots=True)
class Ssh:
    """How the hosts of one cluster are reached."""

    user: str
    key: Path | None
    proxy_command: str | None
    sockets: Path
    """Folder for the sockets of shared connections: private, and its path short (a socket's has 104 bytes at most)."""

    @classmethod
    def of(cls, cluster: ClusterFile, sockets: Path) -> "Ssh":
        """As the cluster file says."""
        return cls(cluster.ssh_user, cluster.ssh_private_key, cluster.ssh_proxy_command, sockets)

    def command(self, host: str, remote: str = "", *, options: Sequence[str] = (), only_key: bool = False) -> list[str]:
        """The arguments of an ssh that asks nothing and ends by itself.

        Args:
            only_key: leave out keys that an agent holds, which no other machine has.
        """
        home = Path.home() / ".ssh"  # ssh itself looks where the user database says; here HOME counts
        said = [
            *("BatchMode=yes", "LogLevel=ERROR", "StrictHostKeyChecking=yes"),
            f"UserKnownHostsFile={home / 'known_hosts'} {home / 'known_hosts2'}",
            f"ConnectTimeout={CONNECT_TIMEOUT_S}",
            *("ServerAliveInterval=5", "ServerAliveCountMax=3", "ClearAllForwardings=yes"),
            *(("IdentitiesOnly=yes",) if self.key else ()),
            *(("IdentityAgent=none",) if only_key else ()),
        ]
        if self.proxy_command and not any("ProxyCommand" in option for option in options):
            said.append(f"ProxyCommand={self.proxy_command}")
        key = ["-i", str(self.key)] if self.key else []
        words = [word for option in [*said, *options] for word in ("-o", option)]
        return ["ssh", "-T", *key, *words, "--", f"{self.user}@{host}", *([remote] if remote else [])]

    def sharing(self, host: str) -> list[str]:
        """Options with which the first session to a host lets others pass through its connection."""
        return [f"ControlPath={self._socket(host)}", "ControlMaster=yes", _LIGHT_EXCHANGE]

    def through(self, head: str) -> list[str]:
        """Options that reach a host from `head`, through the connection that is open to it."""
        way = ["ssh", "-o", f"ControlPath={self._socket(head)}", "-o", "ControlMaster=no", "-W", "%h:%p"]
        return [f"ProxyCommand={shlex.join([*way, '--', f'{self.user}@{head}'])}", _LIGHT_EXCHANGE]

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
"""Kinds of failure: "slow" is no answer in time after the connection stood, "shell" a login that runs no command."""


def read_failure(stderr: str) -> SshFailure:
    """What ssh's last words mean."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip() and not line.startswith(("@", "Warning:"))]
    kind = next((kind for kind, pattern in _SIGNS if re.search(pattern, stderr)), "other")
    return SshFailure(kind, lines[-1] if lines else "ssh said nothing")


def check_key(key: Path) -> str:
    """What is wrong with a private key before any host is asked; "" where Ray's launcher can use it.

    The head uses it with nobody there to type a passphrase.
    """
    if not key.is_file():
        return "missing"
    if key.stat().st_mode & 0o077:
        return "open"
    done = subprocess.run(
        ["ssh-keygen", "-y", "-P", "", "-f", str(key)], capture_output=True, text=True, check=False, timeout=20
    )
    if done.returncode == 0:
        return ""
    return "passphrase" if "passphrase" in done.stderr else "broken"
