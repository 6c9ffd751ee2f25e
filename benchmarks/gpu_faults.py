"""A launch over all GPUs of this machine, struck under load: what waiting clients, GPU memory and the next start do.

    python -m benchmarks.gpu_faults [--layout 2x1] [--out FOLDER]    a Llama of 8B, dummy weights

Each strike meets `raylaunch bench` with 16 streams under way; its result tells how requests ended. Written, strike by
strike: gpu-faults.json, and beside it the screen of `raylaunch top` and the last incident as the product wrote them.
`make faults` strikes with more, on CPU.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import servers
from benchmarks.load import GPU_ENGINE, write_8b_model
from benchmarks.servers import Server

PROGRESS_LIMIT_S = 15.0
STREAMS = 16


@dataclass(frozen=True)
class Struck:
    """A service under fault."""

    server: Server
    home: Path
    log: Path
    out: Path

    def tell(self, *arguments: str) -> str:
        """What a command of raylaunch prints."""
        return subprocess.run(
            [sys.executable, "-m", "raylaunch", *arguments], env=os.environ | {"RAYLAUNCH_HOME": str(self.home)},
            stdout=subprocess.PIPE, text=True, check=False,
        ).stdout  # fmt: skip

    def find_rank(self, rank: int) -> int:
        """The pid of a rank."""
        (record,) = self.home.glob("services/*/service.json")
        return next(int(entry["pid"]) for entry in json.loads(record.read_text())["ranks"] if entry["rank"] == rank)

    def count_again(self) -> int:
        """How often it has said that it serves again."""
        return self.log.read_text(errors="replace").count("again at http")

    def begin_load(self, result: Path) -> subprocess.Popen[bytes]:
        """Streams that the strike will meet: long ones."""
        command = servers.bench_command(self.server, result, "-c", str(STREAMS), "-n", str(STREAMS))
        command += ["--input-tokens", "64", "--output-tokens", "1900", "--warmup", "0", "--no-report", "--no-sample"]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def wait_for_streams(self) -> None:
        """Until all are under way."""
        for _ in range(300):
            if json.loads(self.tell("top", "--once", "--json") or "{}").get("engine", {}).get("running") == STREAMS:
                return
        raise SystemExit("the load did not come up")

    def strike(self, fault: str, hit: Callable[["Struck"], None]) -> dict[str, Any]:
        """Load, strike, and wait until it serves again."""
        result = self.out / "gpu-faults-load.json"
        result.unlink(missing_ok=True)
        load = self.begin_load(result)
        self.wait_for_streams()
        memory, again = read_memory(), self.count_again()
        struck = time.monotonic()
        hit(self)
        load.wait(timeout=300)
        last_client_s = time.monotonic() - struck
        while self.count_again() == again:
            if time.monotonic() - struck > 300:
                raise SystemExit(self.log.read_text(errors="replace")[-3000:])
            time.sleep(0.1)
        ready_s = time.monotonic() - struck
        reported = json.loads(result.read_text())
        result.unlink()
        row = {
            "fault": fault,
            "load_ended_s": last_client_s,
            "ready_s": ready_s,
            "ready_ratio": ready_s / self.server.ready_s,
            "requests_ok": reported["requests_ok"],
            "requests_failed": reported["requests_failed"],
            "errors": reported["errors"],
            "gpu_memory_before_mib": memory,
            "gpu_memory_after_mib": read_memory(),
        }
        print(json.dumps(row), flush=True)
        return row


def read_memory() -> list[int]:
    """In use on each GPU, MiB."""
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return [int(line) for line in subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()]


FAULTS: dict[str, Callable[[Struck], None]] = {
    "kill -9 of the last rank": lambda struck: os.kill(struck.find_rank(len(read_memory()) - 1), signal.SIGKILL),
    "SIGSTOP of rank 0": lambda struck: os.kill(struck.find_rank(0), signal.SIGSTOP),
    "kill -9 of EngineCore": lambda struck: os.kill(servers.find_process(struck.home, "EngineCore"), signal.SIGKILL),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layout", help="TPxPP; all GPUs in TP by default")
    parser.add_argument("--out", type=Path, default=servers.RESULTS)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    empty = read_memory()
    tensor, pipeline = map(int, (options.layout or f"{len(empty)}x1").split("x"))
    engine = GPU_ENGINE | {"tensor_parallel_size": tensor, "pipeline_parallel_size": pipeline}
    port = servers.find_free_port()
    with servers.scratch() as folder:
        model = str(write_8b_model(folder / "model"))
        launch = servers.write_launch(folder, model, engine)
        log, home = folder / "serve.log", folder / "home"
        changes = (f"cluster.gpus_per_node={tensor * pipeline}", f"keep.progress_limit_s={PROGRESS_LIMIT_S}")
        command = servers.raylaunch_command(launch, port, *(word for one in changes for word in ("--set", one)))
        serving = servers.start(
            "raylaunch", command, port=port, model=model, environ={"RAYLAUNCH_HOME": str(home)}, log=log
        )
        with serving as server:
            print(f"ready after {server.ready_s:.0f} s", flush=True)
            struck = Struck(server, home, log, options.out)
            (options.out / "gpu-faults-top.json").write_text(struck.tell("top", "--once", "--json"))
            facts = {
                "layout": f"TP={tensor} x PP={pipeline}",
                "engine": engine,
                "progress_limit_s": PROGRESS_LIMIT_S,
                "first_ready_s": server.ready_s,
                "gpu_memory_empty_mib": empty,
            }
            rows = []
            for fault, hit in FAULTS.items():
                rows.append(struck.strike(fault, hit))
                (options.out / "gpu-faults-incident.txt").write_text(struck.tell("incidents", "last"))
                servers.write_result("gpu-faults", {**facts, "faults": rows}, options.out)  # a rented GPU may go
    print(f"GPU memory at the end: {read_memory()} MiB", flush=True)


if __name__ == "__main__":
    main()
