"""Whether the cluster file's private key is one that Ray's launcher can use."""

import contextlib
import subprocess
from pathlib import Path

_PUBLIC = (b"ssh-", b"ecdsa-", b"sk-", b"---- BEGIN SSH2 PUBLIC KEY", b"-----BEGIN PUBLIC KEY")


def check_key(key: Path) -> str:
    """The problem of a private key: "missing", "public", "no key", "open", "passphrase" or "broken"; "" without one.

    The head uses the key without a terminal, so it must have no passphrase.
    """
    if not key.is_file():
        return "no key" if key.exists() else "missing"
    with contextlib.suppress(PermissionError):
        start = key.read_bytes()[:256]
        if start.startswith(_PUBLIC):
            return "public"
        if b"PRIVATE KEY" not in start:
            return "no key"
    if key.stat().st_mode & 0o077:
        return "open"
    done = subprocess.run(
        ["ssh-keygen", "-y", "-P", "", "-f", str(key)], capture_output=True, text=True, check=False, timeout=20
    )
    if done.returncode == 0:
        return ""
    return "passphrase" if "passphrase" in done.stderr else "broken"
