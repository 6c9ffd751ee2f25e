"""Run commands on a cluster's hosts and in their containers, and forward their ports to this machine."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from raylaunch.base.errors import ClusterError
from raylaunch.base.ports import find_free_ports, wait_for_port
from raylaunch.config.cluster_file import ClusterFile
from raylaunch.provision.container import Docker, runtime_of
from raylaunch.provision.ssh import SSH_FAILED, CommandResult, RemoteProcess, Ssh

Result = TypeVar("Result")
_TUNNEL_TIMEOUT_S = 15.0
_PING_PAUSE_S, _PING_TIMEOUT_S = 4.0, 10.0
"""A host that is gone is reported within half a minute."""


@dataclass(frozen=True, slots=True)
class HostShell:
    """The hosts of one cluster. Secrets go in through `stdin`, never as arguments."""

    cluster: ClusterFile
    ssh: Ssh
    runtime: Docker

    @classmethod
    def of(cls, cluster: ClusterFile) -> "HostShell":
        """For a cluster; no connection is kept open."""
        return cls(cluster, Ssh.of(cluster), runtime_of(cluster))

    def run(self, host: str, command: str, *, stdin: str | Path = "", timeout_s: float = 60.0) -> CommandResult:
        """Run a shell command on a host; `stdin` is text or a file of this machine."""
        return self.ssh.run(host, command, stdin=stdin, timeout_s=timeout_s)

    def run_on_all(self, ask: Callable[[str], Result], hosts: Sequence[str] | None = None) -> dict[str, Result]:
        """Call `ask` for every host, or those of `hosts`, at once; host -> what it returned."""
        hosts = self.cluster.hosts if hosts is None else hosts
        with ThreadPoolExecutor(max_workers=32) as pool:
            return dict(zip(hosts, pool.map(ask, hosts), strict=True))

    def run_in_head(self, command: Sequence[str], *, stdin: str = "", timeout_s: float = 60.0) -> CommandResult:
        """Run a command in the head's container.

        Raises:
            ClusterError: the head cannot be reached, or the cluster is not up.
        """
        inside = self.runtime.execute(self.cluster.container_name, command, keep_stdin=bool(stdin))
        result = self.run(self.cluster.head_ip, inside, stdin=stdin, timeout_s=timeout_s)
        self.raise_for(result)
        return result

    def start_in_head(self, command: Sequence[str], *, backlog: int = 0) -> RemoteProcess:
        """Start a command in the head's container that is to exit when its stdin is closed."""
        inside = self.runtime.execute(self.cluster.container_name, command, keep_stdin=True)
        return RemoteProcess.start(self.ssh.command(self.cluster.head_ip, inside), backlog=backlog)

    def raise_for(self, result: CommandResult) -> None:
        """Check a result of the head.

        Raises:
            ClusterError: the head cannot be reached, or its container does not run.
        """
        head = self.cluster.head_ip
        if result.unreachable:
            raise ClusterError(
                f"the head {head} cannot be reached: {result.failure.message}",
                fix=f"`raylaunch doctor {self.cluster.shown_path}`",
            )
        if self.runtime.has_no_container(result.stderr):
            raise ClusterError(
                f"{self.cluster.cluster_name} is not up: no container {self.cluster.container_name} runs on {head}",
                fix=f"`raylaunch up {self.cluster.shown_path}`",
            )

    def ping(self, host: str) -> str | None:
        """Log in to a host once: None where it answers, else ssh's message."""
        result = self.run(host, "true", timeout_s=_PING_TIMEOUT_S)
        return result.failure.message if result.unreachable else None

    @contextlib.contextmanager
    def watch_reachability(self) -> Iterator[Mapping[str, str]]:
        """Log in to every host repeatedly; yields host -> ssh's message, of hosts that failed twice in a row."""
        lost: dict[str, str] = {}
        ended = threading.Event()

        def watch(host: str) -> None:
            failures = 0
            while not ended.wait(_PING_PAUSE_S):
                message = self.ping(host)
                failures = 0 if message is None else failures + 1
                if message is None:
                    lost.pop(host, None)
                elif failures >= 2:
                    lost[host] = message

        for host in self.cluster.hosts:
            threading.Thread(target=watch, args=(host,), daemon=True).start()
        try:
            yield lost
        finally:
            ended.set()

    @contextlib.contextmanager
    def tunnel(self, port: int, local: int | None = None) -> Iterator[int]:
        """Forward a port of this machine's loopback to `port` on the head's loopback; yields the local port.

        Args:
            local: the local port; None takes any that is free.

        Raises:
            ClusterError: the head cannot be reached.
        """
        local = local or find_free_ports(1)[0]
        command = self.ssh.command(self.cluster.head_ip, forward=f"127.0.0.1:{local} 127.0.0.1:{port}")
        process = RemoteProcess.start(command)
        try:
            if wait_for_port(local, _TUNNEL_TIMEOUT_S, process.is_running):
                yield local
                return
        finally:
            closed = process.close(grace_s=0)
        self.raise_for(CommandResult(SSH_FAILED, stderr=closed.stderr))
