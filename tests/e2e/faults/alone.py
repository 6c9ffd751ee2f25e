"""The same faults under vLLM's own server: started anew for each, since it does not come back by itself."""

import contextlib
import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from raylaunch.cluster.private import PrivateRay
from raylaunch.engine.rehearsal import plan
from raylaunch.engine.rehearsal.standin_model import Shape, write_standin

from .. import harness
from .clients import Clients
from .table import Alone

GIVE_UP_S = 45.0
"""vLLM's own limit is 300 s (VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS): too long for a test."""


@dataclass
class Bare:
    """A running vLLM server on two Ray nodes."""

    process: "subprocess.Popen[bytes]"
    url: str
    home: Path
    model: str
    log: Path
    environ: dict[str, str]

    def find(self, *words: str) -> int:
        """The pid of the first process whose command line or log prefix has all these words."""
        found = harness.find_processes(self.home, *words)
        assert found, (words, harness.list_processes(self.home))
        return found[0]

    def find_core(self) -> int:
        """The pid of EngineCore, a child of the server: its title lies over its environment."""
        server = self.process.pid
        children = Path(f"/proc/{server}/task/{server}/children").read_text().split()
        return next(int(pid) for pid in children if "EngineCore" in Path(f"/proc/{pid}/cmdline").read_text())

    def find_rank(self, rank: int) -> int:
        """The pid of a rank, as Ray's head knows it."""
        script = (
            "import os, ray; from ray._private.state import state;"
            "ray.init(address=os.environ['RAY_ADDRESS'], log_to_driver=False, configure_logging=False);"
            f"print(next(a['Pid'] for a in state.actor_table(None).values() if a['Name'].endswith('_TP{rank % 2}"
            f"_PP{rank // 2}') and a['State'] == 'ALIVE'))"
        )
        found = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=os.environ | self.environ
        )
        return int(found.stdout.split()[-1])


@contextlib.contextmanager
def bare_vllm(
    folder: Path, *, environ: Mapping[str, str] = MappingProxyType({}), log: Path | None = None
) -> Iterator[Bare]:
    """vLLM's own server, ready; nothing of it is left afterwards.

    Args:
        environ: of it and its Ray, beside its own.
        log: where its output goes, instead of into `folder`.
    """
    log = log or folder / "bare.log"
    model = str(write_standin(folder / "model", Shape(heads=8, kv_heads=8, layers=4)))
    home = folder / "bare"
    home.mkdir(exist_ok=True)
    env_vars = {**plan.make_environment("cpu", 4), **plan.stay_on_loopback("cpu"), harness.MARK: str(home), **environ}
    ray = PrivateRay.start(nodes=2, gpus_per_node=2, env_vars=env_vars)
    port = harness.find_free_port()
    server_environ = {**env_vars, "RAY_ADDRESS": ray.address, "VLLM_RPC_BASE_PATH": str(ray.folder)}
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1", "--port", str(port),
        "--model", model, "--tensor-parallel-size", "2", "--pipeline-parallel-size", "2", "--dtype", "float32",
        "--distributed-executor-backend", "ray", "--enforce-eager", "--max-model-len", "1024",
        "--kv-cache-memory-bytes", "33554432",
    ]  # fmt: skip
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=os.environ | server_environ, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    bare = Bare(process, f"http://127.0.0.1:{port}", home, model, log, server_environ)
    try:
        until = time.monotonic() + harness.READY_DEADLINE_S
        while True:
            clients = Clients(bare.url, model)
            clients.start(streaming=0, plain=1, max_tokens=2)
            clients.wait()
            if clients.sent[0].tokens == 2:
                break
            assert process.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < until
            time.sleep(0.5)
        yield bare
    finally:
        for pid in harness.list_processes(home):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.kill()
        process.wait()
        ray.stop()


def strike(bare: Bare, hit: Callable[[Bare], None], *, idle: bool = False) -> Alone:
    """Put requests in flight, strike, and record what becomes of clients and server within GIVE_UP_S.

    Args:
        idle: strike while no request runs, and send one then.
    """
    clients = Clients(bare.url, bare.model, deadline_s=GIVE_UP_S)
    if not idle:
        clients.start(streaming=2, plain=1)
    struck = time.monotonic()
    hit(bare)
    if idle:
        clients.start(streaming=0, plain=1)
    last = clients.wait(GIVE_UP_S + 10) - struck
    hung = any(sent.error == "TIMED OUT" for sent in clients.sent)
    with contextlib.suppress(subprocess.TimeoutExpired):
        bare.process.wait(timeout=10)
    status = bare.process.poll()
    if status is None:
        became = f"/health {read_health(bare.url)}, never serves again"
    else:
        became = f"ended with exit code {status}"
    return Alone(None if hung else last, became)


def hit_server(number: signal.Signals) -> Callable[[Bare], None]:
    return lambda bare: os.kill(bare.process.pid, number)


def read_health(url: str) -> str:
    host, _, port = url.removeprefix("http://").partition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=5)
    try:
        connection.request("GET", "/health")
        return str(connection.getresponse().status)
    except OSError as error:
        return type(error).__name__
    finally:
        connection.close()
