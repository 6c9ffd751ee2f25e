"""A private Ray cluster on this machine, for demo and rehearsal: own folder, free ports, ends with the service.

Each node is a `ray start --block` process in a session of its own, at 127.0.0.1, 127.0.0.2 and so on.
"""

import contextlib
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from raylaunch.base import processes
from raylaunch.base.errors import ClusterError
from raylaunch.base.ports import find_free_ports, wait_for_port
from raylaunch.cluster import settings

_START_TIMEOUT_S = 90.0
_STOP_TIMEOUT_S = 6.0
"""Twice the usual time; after workers were killed, Ray sometimes hangs (2.60), and is killed."""
_NODE_PORTS = (
    *("dashboard-agent-listen-port", "dashboard-agent-grpc-port", "runtime-env-agent-port"),
    *("metrics-export-port", "object-manager-port", "node-manager-port"),
)
_HEAD_PORTS = ("dashboard-port", "ray-client-server-port")
_OBJECT_STORE_BYTES = 128 << 20
"""Small, to keep a rehearsal small: weights never pass through the object store."""
_VISIBLE_DEVICES = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "ONEAPI_DEVICE_SELECTOR")
"""Each vendor's variable that names the GPUs of a process."""
_TRIES = 3
"""Starts, where another process binds a port between its choice and its use."""
_PORT_TAKEN = re.compile(r"\bports?\b|\bin use\b", re.IGNORECASE)
"""In the last line of a Ray node that found a port in use (2.60)."""


class _PortTakenError(ClusterError):
    """Another process has bound a port that was free a moment ago."""


@dataclass(frozen=True)
class PrivateRay:
    """A running private cluster; `stop` ends it."""

    address: str
    folder: Path
    nodes: tuple[processes.Child, ...]

    @classmethod
    def start(cls, *, nodes: int, gpus_per_node: int, env_vars: Mapping[str, str], real_gpus: bool = False) -> Self:
        """Start `nodes` Ray nodes with `gpus_per_node` GPUs each.

        Args:
            env_vars: environment of every Ray worker, over this process's own.
            real_gpus: whether the GPUs are this machine's; else they exist in Ray's accounts only, and variables that
                choose among real ones are left out: Ray refuses more GPUs than they name (2.60).

        Raises:
            ClusterError: a node did not start; the message has the last line of its log. Nothing is left running.
        """
        processes.raise_file_limit()
        for _ in range(_TRIES - 1):
            with contextlib.suppress(_PortTakenError):
                return cls._start(nodes, gpus_per_node, env_vars, real_gpus)
        return cls._start(nodes, gpus_per_node, env_vars, real_gpus)

    @classmethod
    def _start(cls, nodes: int, gpus_per_node: int, env_vars: Mapping[str, str], real_gpus: bool) -> Self:
        folder = Path(tempfile.mkdtemp(prefix="raylaunch-"))  # short: Ray's sockets live under it (107 bytes at most)
        # In one call, so that all differ: Ray refuses a port that two components use.
        port, *ports = find_free_ports(1 + len(_HEAD_PORTS) + nodes * len(_NODE_PORTS))
        cluster = cls(address=f"127.0.0.1:{port}", folder=folder, nodes=())
        try:
            for index in range(nodes):
                where = ["--head", f"--port={port}"] if index == 0 else [f"--address={cluster.address}"]
                names = [*_NODE_PORTS, *(_HEAD_PORTS if index == 0 else ())]
                where += [f"--{name}={ports.pop()}" for name in names]
                ip = f"127.0.0.{index + 1}"
                environment = make_environment(ip, env_vars, real_gpus=real_gpus)
                node = _start_node(folder, ip, gpus_per_node, where, environment)
                cluster = cls(address=cluster.address, folder=folder, nodes=(*cluster.nodes, node))
                if index == 0:
                    _wait_for_port(port, node, folder)
        except BaseException:
            cluster.stop()
            raise
        return cluster

    def find_failure(self) -> str | None:
        """Address and last log line of the first dead node; None while all are alive."""
        for index, node in enumerate(self.nodes):
            if node.popen.poll() is not None:
                return f"127.0.0.{index + 1}: {_read_last_line(self.folder / f'node{index}.log')}"
        return None

    def stop(self) -> None:
        """End every node, workers first and head last, and remove the folder."""
        for node in reversed(self.nodes):
            node.send(signal.SIGTERM)
        deadline = time.monotonic() + _STOP_TIMEOUT_S
        for node in reversed(self.nodes):
            node.wait_or_kill(max(0.5, deadline - time.monotonic()))
        shutil.rmtree(self.folder, ignore_errors=True)


def make_environment(ip: str, env_vars: Mapping[str, str], *, real_gpus: bool) -> dict[str, str]:
    """The environment of a node's processes: this process's own, Ray's settings, then `env_vars`."""
    # Otherwise Ray kills a worker's resource tracker with it, and vLLM's shared memory stays in /dev/shm (Ray 2.60).
    keep_trackers = {"RAY_kill_child_processes_on_worker_exit": "false", "RAY_process_group_cleanup_enabled": "false"}
    own = {"VLLM_HOST_IP": ip, **keep_trackers, **processes.KEEP_VISIBLE, **settings.NODE}
    left_out = {"RAY_ADDRESS"} if real_gpus else {"RAY_ADDRESS", *_VISIBLE_DEVICES}
    return {name: value for name, value in (os.environ | own | dict(env_vars)).items() if name not in left_out}


def _start_node(folder: Path, ip: str, gpus: int, where: list[str], environment: Mapping[str, str]) -> processes.Child:
    command = [
        sys.executable, "-m", "ray.scripts.scripts", "start", *where, "--block",
        f"--node-ip-address={ip}", f"--num-gpus={gpus}", f"--temp-dir={folder}",
        f"--object-store-memory={_OBJECT_STORE_BYTES}", "--disable-usage-stats",
        "--min-worker-port=0", "--max-worker-port=0",
    ]  # fmt: skip
    if "--head" in where:
        command.append("--include-dashboard=false")
    index = int(ip.rpartition(".")[2]) - 1
    with (folder / f"node{index}.log").open("wb") as log:
        return processes.Child.start(command, environment=environment, output=log)


def _wait_for_port(port: int, node: processes.Child, folder: Path) -> None:
    if wait_for_port(port, _START_TIMEOUT_S, lambda: node.popen.poll() is None):
        return
    last_line = _read_last_line(folder / "node0.log")
    raise (_PortTakenError if _PORT_TAKEN.search(last_line) else ClusterError)(
        f"the private Ray of this launch did not start: {last_line}",
        fix="free memory and disk space; `ray start --head --block` by hand shows more",
    )


def _read_last_line(log: Path) -> str:
    try:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    except OSError:
        return "its log is gone"
    return lines[-1] if lines else "its log is empty"
