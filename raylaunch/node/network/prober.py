"""The actor of one node or one rank: measures links, and runs the collectives' child under deadlines."""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from raylaunch.node.network.interfaces import NodeNetwork, read_network
from raylaunch.node.network.links import LinkMeasured, LinkRequest, LinkServer, measure_link

_LOG_LIMIT = 200_000
_LAST_STEPS = ("end", "error")


@dataclass(frozen=True, slots=True)
class Trial:
    """One trial of one rank; collective.py runs it."""

    name: str
    backend: str
    """ "gloo" or "nccl"."""
    rank: int
    world: int
    host: str
    """Of the rendezvous: the address of rank 0's node."""
    port: int
    timeout_s: float
    """Of each operation within PyTorch."""
    deadline_s: float
    """The child is killed after this."""
    tasks: tuple[Mapping[str, Any], ...] = ()
    device: int = 0
    """Index of the rank's GPU among those it sees."""
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TrialResult:
    """What one rank's child wrote."""

    rank: int
    steps: tuple[Mapping[str, Any], ...]
    """In order; the last one's "step" is "end", "error", or where it hung."""
    nccl_log: str = ""

    @property
    def last(self) -> str:
        """Name of the last step; "" where the child wrote none."""
        return str(self.steps[-1]["step"]) if self.steps else ""

    @property
    def error(self) -> str:
        """PyTorch's message, "" without one."""
        return str(self.steps[-1].get("text", "")) if self.last == "error" else ""

    def find(self, step: str, **facts: object) -> Mapping[str, Any] | None:
        """The first step of this name with these facts."""
        wanted = {"step": step, **facts}.items()
        return next((one for one in self.steps if wanted <= one.items()), None)


class NetworkProber:
    """On one node, in the environment of its ranks."""

    def __init__(self, node_ip: str, source: str) -> None:
        """`source`: the text of collective.py."""
        self._node_ip, self._source = node_ip, source
        self._server: LinkServer | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._unread = b""
        self._has_imported = False

    def describe(self) -> NodeNetwork:
        """The facts of this node's network."""
        return read_network(self._node_ip)

    def listen(self) -> tuple[int, int]:
        """Answer other nodes' measurements; returns the TCP and the UDP port."""
        self._server = self._server or LinkServer(self._node_ip)
        return self._server.ports

    def measure(self, request: LinkRequest) -> LinkMeasured:
        """Measure the link to another node."""
        return measure_link(request)

    def find_gpus(self) -> tuple[str, ...]:
        """The GPUs that Ray gave to this actor, as CUDA_VISIBLE_DEVICES names them."""
        import ray

        return tuple(str(gpu) for gpu in ray.get_runtime_context().get_accelerator_ids().get("GPU", ()))

    def find_port(self) -> int:
        """A TCP port that is free on this node now."""
        with socket.socket() as probe:
            probe.bind((self._node_ip, 0))
            return int(probe.getsockname()[1])

    def prepare(self) -> None:
        """Start the child: it imports PyTorch meanwhile."""
        if self._child is None or self._child.poll() is not None:
            self._unread, self._has_imported = b"", False
            self._child = subprocess.Popen(
                [sys.executable, "-c", self._source], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL, start_new_session=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
            )  # fmt: skip

    def wait_imported(self, timeout_s: float) -> bool:
        """Whether the child has imported PyTorch by then."""
        self.prepare()
        self._has_imported = self._has_imported or bool(self._read_steps("", "imported", timeout_s))
        return self._has_imported

    def run(self, trial: Trial) -> TrialResult:
        """Run one trial; a child that has not imported PyTorch, or is not through by the deadline, is killed."""
        if not self.wait_imported(0.0):
            self.kill()
            return TrialResult(trial.rank, ())
        assert self._child is not None
        assert self._child.stdin is not None
        with tempfile.TemporaryDirectory(prefix="raylaunch-net-") as folder:
            log = Path(folder, "nccl.log")
            own = {"NCCL_DEBUG": "INFO", "NCCL_DEBUG_SUBSYS": "INIT,BOOTSTRAP,ENV,NET,P2P", "NCCL_DEBUG_FILE": str(log)}
            environment = {**trial.environment, **(own if trial.backend == "nccl" else {})}
            order = asdict(replace(trial, environment=environment))
            with contextlib.suppress(BrokenPipeError):
                self._child.stdin.write(json.dumps(order).encode() + b"\n")
                self._child.stdin.flush()
            steps = self._read_steps(trial.name, "end", trial.deadline_s)
            if not steps or steps[-1]["step"] not in _LAST_STEPS:
                self.kill()
            text = log.read_text(errors="replace")[-_LOG_LIMIT:] if log.is_file() else ""
        return TrialResult(trial.rank, tuple(steps), text)

    def _read_steps(self, name: str, last: str, timeout_s: float) -> list[Mapping[str, Any]]:
        """The steps of a trial up to its last one, or an error; fewer where the time is over or the child has ended."""
        assert self._child is not None
        assert self._child.stdout is not None
        steps: list[Mapping[str, Any]] = []
        deadline = time.monotonic() + timeout_s
        while True:
            line, found, rest = self._unread.partition(b"\n")
            if found:
                self._unread = rest
                with contextlib.suppress(ValueError):  # a library printed to stdout
                    step = json.loads(line)
                    if step["trial"] == name:
                        steps.append(step)
                        if step["step"] in (last, "error"):
                            return steps
                continue
            ready, _, _ = select.select([self._child.stdout], [], [], max(0.0, deadline - time.monotonic()))
            piece = os.read(self._child.stdout.fileno(), 1 << 16) if ready else b""
            if not piece:
                return steps
            self._unread += piece

    def kill(self) -> None:
        """End the child and what it forked."""
        if self._child is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._child.pid, signal.SIGKILL)
            self._child.wait()
            self._child = None

    def close(self) -> None:
        """End everything that was started here."""
        self.kill()
        if self._server is not None:
            self._server.close()
