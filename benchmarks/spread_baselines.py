"""One source that sends to all others at once: over plain sockets, by scp, by rsync."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.islands import Island, Islands
from benchmarks.spread_inside import read_busy_s

_PORT = 5055
_PIECE_BYTES = 1 << 20


def send_to_all(path: Path, addresses: Sequence[tuple[str, int]]) -> None:
    """Send a file to all addresses at once with sendfile."""

    def send(address: tuple[str, int]) -> None:
        with socket.create_connection(address) as connection, path.open("rb") as file:
            connection.sendfile(file)
            connection.shutdown(socket.SHUT_WR)
            connection.recv(1)  # the other side has written it

    threads = [threading.Thread(target=send, args=(address,)) for address in addresses]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def receive(listening: socket.socket, path: Path) -> None:
    """Take one connection's bytes into a file."""
    connection, _ = listening.accept()
    buffer = memoryview(bytearray(_PIECE_BYTES))
    with connection, path.open("wb", buffering=0) as file:
        while count := connection.recv_into(buffer):
            file.write(buffer[:count])


def copy_by_sockets(files: Sequence[Path], to: Path, streams: int) -> float:
    """Seconds that `streams` plain sockets on loopback take for these files, each stream a pair of processes."""
    to.mkdir(exist_ok=True)
    code = (
        "import sys; from pathlib import Path; from benchmarks.spread_baselines import copy_here; "
        "copy_here([Path(name) for name in sys.argv[2:]], Path(sys.argv[1]))"
    )
    began = time.monotonic()
    copies = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(to), *map(str, files[stream::streams])], stdin=subprocess.PIPE
        )
        for stream in range(streams)
        if files[stream::streams]
    ]
    began = time.monotonic()
    for copy in copies:
        assert copy.stdin is not None
        copy.stdin.close()
    for copy in copies:
        copy.wait()
    seconds = time.monotonic() - began
    for path in files:
        (to / path.name).unlink()
    return seconds


def copy_here(files: Sequence[Path], to: Path) -> None:
    """One stream: this process receives what a child of it sends."""
    sys.stdin.read()  # all streams start at once
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = listening.getsockname()
        if os.fork() == 0:
            for path in files:
                send_to_all(path, [address])
            os._exit(0)
        for path in files:
            receive(listening, to / path.name)
        os.wait()


def _make_file(made: Islands, size: int) -> Path:
    path = made.data / f"baseline-{time.monotonic_ns()}"  # a new name: rsync copies nothing that is there already
    script = f"head -c {size} /dev/urandom > {path}"
    made.run(made.islands[0], ["sh", "-c", script]).wait()
    return path


def _run_all(commands: Sequence["subprocess.Popen[str]"]) -> None:
    for command in commands:
        text, _ = command.communicate()
        if command.returncode:
            raise RuntimeError(text)


def _time(work: Callable[[], None]) -> tuple[float, float]:
    began, busy = time.monotonic(), read_busy_s()
    work()
    return time.monotonic() - began, read_busy_s() - busy


def send_by_sockets(made: Islands, size: int) -> tuple[float, float]:
    """Seconds, and CPU seconds, of plain sockets."""
    path = _make_file(made, size)
    head, *others = made.islands
    code = (
        "import socket, sys; from pathlib import Path; from benchmarks.spread_baselines import receive; "
        f"listening = socket.create_server((sys.argv[1], {_PORT})); print('up', flush=True); "
        "receive(listening, Path(sys.argv[2]))"
    )
    receivers = [made.run(other, [sys.executable, "-c", code, other.ip, str(path)]) for other in others]
    for receiver in receivers:
        assert receiver.stdout is not None
        assert receiver.stdout.readline() == "up\n"
    addresses = [(other.ip, _PORT) for other in others]
    sender = (
        "import time, sys; from pathlib import Path; from benchmarks.spread_baselines import send_to_all; "
        f"send_to_all(Path(sys.argv[1]), {addresses!r})"
    )
    return _time(lambda: _run_all([made.run(head, [sys.executable, "-c", sender, str(path)]), *receivers]))


def _start_sshd(made: Islands, island: Island) -> "tuple[subprocess.Popen[str], list[str]]":
    """An ssh server in an island, for this run's key alone, and the options to reach it with."""
    folder = made.scratch / "ssh"
    if not folder.exists():
        folder.mkdir(mode=0o700)
        for name in ("host", "user"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
        Path("/run/sshd").mkdir(exist_ok=True)
    options = {
        "HostKey": folder / "host", "AuthorizedKeysFile": folder / "user.pub", "StrictModes": "no", "UsePAM": "no",
        "PermitRootLogin": "yes", "PidFile": "none", "Subsystem": "sftp internal-sftp", "ListenAddress": island.ip,
    }  # fmt: skip
    settings = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    server = made.run(island, ["/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null", *settings])
    assert server.stdout is not None
    while "listening on" not in (line := server.stdout.readline()):
        if not line:
            raise RuntimeError(f"no sshd on {island.ip}")
    chosen = {"IdentityFile": folder / "user", "StrictHostKeyChecking": "no", "UserKnownHostsFile": "/dev/null"}
    return server, [word for name, value in chosen.items() for word in ("-o", f"{name}={value}")]


def _send_by_ssh(made: Islands, size: int, make: Callable[[list[str], Path, str], list[str]]) -> tuple[float, float]:
    path = _make_file(made, size)
    head, *others = made.islands
    started = [_start_sshd(made, other) for other in others]
    commands = [
        make(options, path, f"root@{other.ip}:{path}") for other, (_, options) in zip(others, started, strict=True)
    ]
    try:
        return _time(lambda: _run_all([made.run(head, command) for command in commands]))
    finally:
        for server, _ in started:
            server.terminate()
            server.wait()


def send_by_scp(made: Islands, size: int) -> tuple[float, float]:
    """Seconds, and CPU seconds, of scp."""
    return _send_by_ssh(made, size, lambda options, path, to: ["scp", "-q", *options, str(path), to])


def send_by_rsync(made: Islands, size: int) -> tuple[float, float]:
    """Seconds, and CPU seconds, of rsync over ssh."""
    return _send_by_ssh(
        made,
        size,
        lambda options, path, to: ["rsync", "-a", "--whole-file", "-e", f"ssh {' '.join(options)}", str(path), to],
    )


WAYS: dict[str, Callable[[Islands, int], tuple[float, float]]] = {
    "sockets": send_by_sockets,
    "scp": send_by_scp,
    "rsync": send_by_rsync,
}
