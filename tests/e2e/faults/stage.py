"""The stage of the fault suite: TP=2 x PP=2 (in CI TP=1) of a tiny model over two Ray nodes, served and struck."""

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from raylaunch.base.processes import MARK_VARIABLE, ProcessId, list_marked, wait_until
from raylaunch.engine.rehearsal.standin_model import Shape, write_standin

from .. import harness
from .clients import Clients, Hammer

MODEL = "example/stand-in"
PROGRESS_LIMIT_S = 8.0
CANARY_S = 3.0
_EVERYTHING_S = 300.0


@dataclass(frozen=True)
class Row:
    """One fault, measured."""

    fault: str
    kind: str
    """"death" or "wedge"."""
    last_client_s: float
    """From the strike until the last waiting client had its answer or error."""
    outcomes: str
    """How the clients ended, counted."""
    ready_s: float
    """From the strike until a completion came back again."""
    first_ready_s: float
    left: tuple[str, ...]
    """Processes of the engine before that are still there."""
    memory_ratio: float
    """Memory of all processes of the service when it was ready again, against the first time."""

    @property
    def ratio(self) -> float:
        """Ready again against the first start."""
        return self.ready_s / self.first_ready_s


def write_launch(folder: Path, tp: int, **keep: float) -> Path:
    """The launch of the suite; its model lies beside it."""
    write_standin(folder / "model", Shape(heads=8, kv_heads=8, layers=4))
    block = {"progress_limit_s": PROGRESS_LIMIT_S, "canary_s": CANARY_S, "drain_s": 20} | keep
    launch = folder / "launch.yaml"
    launch.write_text(f"""\
model: {{repo: {MODEL}, path: {folder / "model"}}}
cluster: {{nodes: 2, gpus_per_node: {tp}, local: true}}
engine:
  tensor_parallel_size: {tp}
  pipeline_parallel_size: 2
  dtype: float32
  enforce_eager: true
  max_model_len: 1024
  kv_cache_memory_bytes: 33554432
keep: {json.dumps(block)}
""")
    return launch


class Stage:
    """A service under fault."""

    def __init__(self, served: harness.Serving, hammer: Hammer, launch: Path) -> None:
        self.served, self.hammer, self.launch = served, hammer, launch
        self.first_ready_s = 0.0
        self.first_memory_bytes = 0

    def wait_first(self, began: float) -> None:
        """Wait for the first start."""
        self.served.wait_ready()
        self.first_ready_s = time.monotonic() - began
        self.wait_settled()
        self.first_memory_bytes = self.measure_memory()

    def wait_settled(self) -> None:
        """Until the next serving child stands by, as it does when a service has run for a while."""
        assert wait_until(self._stands_by, harness.READY_DEADLINE_S), self.record()

    def _stands_by(self) -> bool:
        standby = self.record()[
            "stand_by"
        ]  # of the last engine's time where the disk is full: then that one serves now
        return standby in self._find_all("-m raylaunch.engine.api_server") and standby != self.find_server()

    def list_identities(self) -> dict[ProcessId, str]:
        """All processes of the engine and its Ray, with their command lines; not the supervisor, nor who stands by."""
        known = harness.list_processes(self.served.home) | {self.find_core(): "EngineCore"}
        stands_by = self.record()["stand_by"]
        for pid in (self.served.process.pid, stands_by, *(list_children(stands_by) if stands_by else ())):
            known.pop(pid, None)
        return {one: command for pid, command in known.items() if (one := ProcessId.of(pid)) is not None}

    def find_left(self, before: Mapping[ProcessId, str]) -> tuple[str, ...]:
        """Those that are still there, but for the private Ray that carries the engine now: it may be the same."""
        leaders = {leader["pid"] for leader in self.record()["group_leaders"]}
        (keeper,) = leaders & {*self._find_all("-m raylaunch.serve.private_ray_main")}
        in_use = set(list_marked(MARK_VARIABLE, read_mark(keeper)))
        return find_living({one: command for one, command in before.items() if one.pid not in in_use})

    def measure_memory(self) -> int:
        """Memory of all processes of the service, bytes; what several share is counted once."""
        pids = {*harness.list_processes(self.served.home), self.find_core()}
        return sum(_read_pss(pid) for pid in pids)

    def record(self) -> dict[str, Any]:
        """The service's own record."""
        (path,) = self.served.home.glob("services/*/service.json")
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    def find_rank(self, rank: int) -> int:
        """The pid of a rank."""
        return next(int(entry["pid"]) for entry in self.record()["ranks"] if entry["rank"] == rank)

    def find(self, *words: str) -> int:
        """The pid of the one process of this service whose command line has all these words."""
        found = self._find_all(*words)
        assert len(found) == 1, (words, harness.list_processes(self.served.home))
        return found[0]

    def _find_all(self, *words: str) -> list[int]:
        return harness.find_processes(self.served.home, *words)

    def find_core(self) -> int:
        """The pid of EngineCore, the one child of an API server with that name: who stands by has none."""
        return next(core for server in self._find_all("-m raylaunch.engine.api_server") for core in list_cores(server))

    def find_server(self) -> int:
        """The pid of the API server that serves."""
        return next(server for server in self._find_all("-m raylaunch.engine.api_server") if list_cores(server))

    def strike(
        self, fault: str, kind: str, hit: Callable[["Stage"], None], *, clients: tuple[int, int] = (2, 1)
    ) -> Row:
        """Put requests in flight, strike, and measure until it serves again.

        Args:
            clients: how many streams and how many plain completions are in flight.
        """
        waiting = Clients(self.served.url, MODEL)
        waiting.start(streaming=clients[0], plain=clients[1])
        before = self.list_identities()
        again = self.served.text().count("again at http")
        struck = time.monotonic()
        hit(self)
        last = waiting.wait() if waiting.sent else struck
        until = time.monotonic() + _EVERYTHING_S
        while self.served.text().count("again at http") == again:
            assert self.served.process.poll() is None, self.served.text()
            assert time.monotonic() < until, self.served.text()
            time.sleep(0.1)
        ready_s = time.monotonic() - struck
        self.ask()
        self.wait_settled()
        memory = self.measure_memory() / self.first_memory_bytes
        row = Row(
            fault, kind, last - struck, waiting.describe(), ready_s, self.first_ready_s, self.find_left(before), memory
        )
        print(row, flush=True)
        return row

    def ask(self) -> None:
        """One completion has to come back."""
        clients = Clients(self.served.url, MODEL)
        clients.start(streaming=0, plain=1, max_tokens=2)
        clients.wait()
        assert clients.sent[0].tokens == 2, clients.describe()


def read_mark(pid: int) -> str:
    """Of the service's start, or of its Ray, that a process belongs to."""
    environment = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return next(entry.partition("=")[2] for entry in environment if entry.startswith(f"{MARK_VARIABLE}="))


def list_children(pid: int) -> list[int]:
    """Of a process's main thread."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def list_cores(server: int) -> list[int]:
    """EngineCores among the children of an API server."""
    return [pid for pid in list_children(server) if "EngineCore" in Path(f"/proc/{pid}/cmdline").read_text()]


def find_living(before: Mapping[ProcessId, str]) -> tuple[str, ...]:
    """Those that are still there."""
    return tuple(f"{one.pid} {command}" for one, command in before.items() if one.is_alive())


def _read_pss(pid: int) -> int:
    """Proportional set size, bytes; 0 once it is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) << 10
    return 0


@contextlib.contextmanager
def stage(
    folder: Path, *, tp: int = 2, environ: Mapping[str, str] = MappingProxyType({}), **keep: float
) -> Iterator[Stage]:
    """Serve, with a hammer on the port from the first second to the last."""
    folder.mkdir(parents=True, exist_ok=True)
    launch = write_launch(folder, tp, **keep)
    began = time.monotonic()
    with harness.serving(folder / "home", str(launch), **environ) as served, Hammer(served.url) as hammer:
        one = Stage(served, hammer, launch)
        one.wait_first(began)
        yield one


class Struck(Protocol):
    """A service, ours or vLLM's alone, whose processes can be found."""

    def find_rank(self, rank: int) -> int:
        """The pid of a rank."""

    def find_core(self) -> int:
        """The pid of EngineCore."""

    def find(self, *words: str) -> int:
        """The pid of the process whose command line has all these words."""


Hit = Callable[[Struck], None]


def kill_rank(rank: int) -> Hit:
    return lambda struck: os.kill(struck.find_rank(rank), signal.SIGKILL)


def stop_rank(rank: int) -> Hit:
    return lambda struck: os.kill(struck.find_rank(rank), signal.SIGSTOP)


def hit_core(number: signal.Signals) -> Hit:
    return lambda struck: os.kill(struck.find_core(), number)


def hit_server(number: signal.Signals) -> Callable[[Stage], None]:
    return lambda one: os.kill(one.find_server(), number)


def send(number: signal.Signals, *words: str) -> Hit:
    return lambda struck: os.kill(struck.find(*words), number)
