"""Run commands on a cluster's hosts and in their containers, over ssh, and open ways to their ports."""

import contextlib
import json
import shlex
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from raylaunch.base.errors import ClusterError
from raylaunch.base.ports import find_free_ports
from raylaunch.config.cluster_file import ClusterFile
from raylaunch.provision.ssh import Ssh, read_failure

Result = TypeVar("Result")
_TUNNEL_TIMEOUT_S = 15.0
_KNOCK_PAUSE_S, _KNOCK_TIMEOUT_S = 4.0, 10.0
"""A host that is gone is told within half a minute."""
SSH_FAILED = 255
"""ssh's own exit status where it, and not the command, failed."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command left."""

    status: int
    stdout: str
    stderr: str

    @property
    def unreachable(self) -> bool:
        """Whether the host, and not the command, is to blame."""
        return self.status == SSH_FAILED


@dataclass(frozen=True, slots=True)
class HostShell:
    """The hosts of one cluster as its file says they are reached. Secrets go in through `stdin`, never as arguments."""

    cluster: ClusterFile
    ssh: Ssh

    @classmethod
    def of(cls, cluster: ClusterFile) -> "HostShell":
        """For a cluster; no connection is kept open, so the folder for sockets stays unused."""
        return cls(cluster, Ssh.of(cluster, Path(tempfile.gettempdir())))

    def run(self, host: str, command: str, *, stdin: str = "", timeout_s: float = 60.0) -> Answer:
        """Run a shell command on a host to its end; one that takes longer counts as a host that does not answer."""
        try:
            done = subprocess.run(
                self.ssh.command(host, command),
                input=stdin,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Answer(SSH_FAILED, "", f"{host} did not answer within {timeout_s:.0f} s")
        return Answer(done.returncode, done.stdout, done.stderr)

    def send_file(self, host: str, file: Path, command: str, *, timeout_s: float = 3600.0) -> Answer:
        """Run a shell command on a host with a file of this machine as its stdin."""
        with file.open("rb") as source:
            done = subprocess.run(
                self.ssh.command(host, command), stdin=source, capture_output=True, timeout=timeout_s, check=False
            )
        return Answer(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))

    def run_on_all(self, ask: Callable[[str], Result]) -> dict[str, Result]:
        """Call `ask` for every host at once; host -> what it returned."""
        hosts = self.cluster.hosts
        with ThreadPoolExecutor(max_workers=min(32, len(hosts))) as pool:
            return dict(zip(hosts, pool.map(ask, hosts), strict=True))

    def inside(self, words: Sequence[str], *, keep_stdin: bool = False) -> str:
        """The shell command that runs `words` in the cluster's container."""
        return shlex.join(["docker", "exec", *(["-i"] if keep_stdin else []), self.cluster.container_name, *words])

    def run_in_head(self, words: Sequence[str], *, stdin: str = "", timeout_s: float = 60.0) -> Answer:
        """Run a command in the head's container.

        Raises:
            ClusterError: the head cannot be reached, or the cluster is not up.
        """
        answer = self.run(
            self.cluster.head_ip, self.inside(words, keep_stdin=bool(stdin)), stdin=stdin, timeout_s=timeout_s
        )
        self.raise_for(answer)
        return answer

    def raise_for(self, answer: Answer) -> None:
        """Turn an answer that says "no cluster there" into words.

        Raises:
            ClusterError: the head cannot be reached, or its container is not there.
        """
        head = self.cluster.head_ip
        if answer.unreachable:
            failure = read_failure(answer.stderr)
            raise ClusterError(
                f"the head {head} cannot be reached: {failure.said}", fix=f"`raylaunch doctor {self.cluster.path}`"
            )
        if "No such container" in answer.stderr or "is not running" in answer.stderr:
            raise ClusterError(
                f"{self.cluster.cluster_name} is not up: no container {self.cluster.container_name} runs on {head}",
                fix=f"`raylaunch up {self.cluster.path}`",
            )

    def follow_in_head(self, words: Sequence[str]) -> "subprocess.Popen[str]":
        """Start a command in the head's container and let its stdout be read; ended by closing its stdin."""
        head = self.cluster.head_ip
        return subprocess.Popen(
            self.ssh.command(head, self.inside(words, keep_stdin=True)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C reaches us alone
        )

    def knock(self, host: str) -> str | None:
        """Try a host over ssh once: None where it answers, else ssh's words."""
        answer = self.run(host, "true", timeout_s=_KNOCK_TIMEOUT_S)
        return read_failure(answer.stderr).said if answer.unreachable else None

    @contextlib.contextmanager
    def watch_reachability(self) -> Iterator[Mapping[str, str]]:
        """Try every host over ssh again and again; yields host -> ssh's words, of those that failed twice in a row."""
        lost: dict[str, str] = {}
        ended = threading.Event()

        def watch(host: str) -> None:
            failures = 0
            while not ended.wait(_KNOCK_PAUSE_S):
                said = self.knock(host)
                failures = failures + 1 if said is not None else 0
                if said is not None and failures >= 2:
                    lost[host] = said
                elif not failures:
                    lost.pop(host, None)

        threads = [threading.Thread(target=watch, args=(host,), daemon=True) for host in self.cluster.hosts]
        for thread in threads:
            thread.start()
        try:
            yield lost
        finally:
            ended.set()

    @contextlib.contextmanager
    def tunnel(self, port: int, local: int | None = None) -> Iterator[int]:
        """A port of this machine's loopback that leads to `port` on the head's loopback.

        Args:
            local: which one; None takes any that is free.

        Raises:
            ClusterError: the head cannot be reached.
        """
        local = local or find_free_ports(1)[0]
        command = self.ssh.command(
            self.cluster.head_ip,
            options=["ExitOnForwardFailure=yes", f"LocalForward=127.0.0.1:{local} 127.0.0.1:{port}"],
        )
        command = [
            "ssh",
            "-N",
            *("ClearAllForwardings=no" if w == "ClearAllForwardings=yes" else w for w in command[1:]),
        ]
        way = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            self._wait_for_way(way, local)
            yield local
        finally:
            way.terminate()
            way.communicate()

    def _wait_for_way(self, way: "subprocess.Popen[str]", port: int) -> None:
        until = time.monotonic() + _TUNNEL_TIMEOUT_S
        while way.poll() is None and time.monotonic() < until:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.05)
        way.kill()
        _, said = way.communicate()
        self.raise_for(Answer(SSH_FAILED, "", said))


def read_json_lines(stream: Iterator[str]) -> Iterator[dict[str, object]]:
    """Each line that is a JSON object; others (a library's warning) are passed over."""
    for line in stream:
        with contextlib.suppress(ValueError):
            value = json.loads(line)
            if isinstance(value, dict):
                yield value
