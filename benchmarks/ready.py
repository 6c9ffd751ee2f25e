"""Time from the command to the first completion: `raylaunch serve` against vLLM alone.

    python -m benchmarks.ready demo [--pairs 5]          one worker, the demo model
    python -m benchmarks.ready rehearsal [--pairs 1]     TP=4 x PP=4: sixteen workers on 2 x 8 logical GPUs

In the rehearsal, vLLM alone means: two `ray start` nodes, then vLLM's own server with the same stand-in platform. Both
are timed from their first command.
"""

import argparse
import contextlib
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import servers
from benchmarks.load import DEMO_ENGINE
from benchmarks.servers import Server

REPO = Path(__file__).parents[1]


@contextlib.contextmanager
def demo_server(name: str, folder: Path, model: str) -> Iterator[Server]:
    """The demo model behind one of the two servers."""
    port = servers.find_free_port()
    if name == "vllm":
        command, environ = servers.vllm_command(model, port, DEMO_ENGINE), {"HF_HUB_OFFLINE": "1"}
    else:
        launch = servers.write_launch(folder, model, DEMO_ENGINE)
        command, environ = servers.raylaunch_command(launch, port), {"RAYLAUNCH_HOME": str(folder / "home")}
    with servers.start(name, command, port=port, model=model, environ=environ, log=folder / f"{name}.log") as server:
        yield server


@contextlib.contextmanager
def rehearsal_server(name: str, folder: Path, model: str) -> Iterator[Server]:
    """Sixteen workers behind one of the two servers."""
    from raylaunch.cluster.private import PrivateRay
    from raylaunch.engine.rehearsal import plan

    port = servers.find_free_port()
    if name == "raylaunch":
        command = servers.raylaunch_command(
            REPO / "configs/deepseek-r1-70b.yaml", port, "--rehearse", "--set", "server.host=127.0.0.1"
        )
        environ = {"RAYLAUNCH_HOME": str(folder / "home")}
        served = "/data/DeepSeek-R1-Distill-Llama-70B"
        with servers.start(name, command, port=port, model=served, environ=environ, log=folder / "ours.log") as server:
            yield server
        return
    began = time.monotonic()
    environ = plan.make_environment("cpu", 16)
    cluster = PrivateRay.start(nodes=2, gpus_per_node=8, env_vars=environ)
    try:
        engine = {
            "tensor_parallel_size": 4, "pipeline_parallel_size": 4, "distributed_executor_backend": "ray",
            "dtype": "float16", "enforce_eager": True, "max_model_len": 2048, "kv_cache_memory_bytes": 32 << 20,
        }  # fmt: skip
        command = servers.vllm_command(model, port, engine)
        environ = {**environ, "RAY_ADDRESS": cluster.address}
        with servers.start(name, command, port=port, model=model, environ=environ, log=folder / "vllm.log") as server:
            yield Server(name, server.url, model, time.monotonic() - began)
    finally:
        cluster.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=("demo", "rehearsal"))
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
    rows: list[dict[str, float]] = []
    with servers.scratch() as folder:
        if options.case == "rehearsal":
            from raylaunch.engine.rehearsal.standin_model import smallest_shape, write_standin

            model = str(write_standin(folder / "model", smallest_shape(tp=4, pp=4)))
        else:
            model = servers.find_demo_model()
        start = demo_server if options.case == "demo" else rehearsal_server
        for pair in range(options.pairs):
            row: dict[str, float] = {}
            for name in ("raylaunch", "vllm") if pair % 2 else ("vllm", "raylaunch"):
                with start(name, folder, model) as server:
                    row[name] = server.ready_s
                time.sleep(2)
            rows.append(row)
            print(row, flush=True)
    medians = {name: statistics.median(row[name] for row in rows) for name in ("raylaunch", "vllm")}
    result: dict[str, Any] = {
        "case": options.case,
        "unit": "seconds from the command to the first completion",
        "medians": medians,
        "ratio": medians["raylaunch"] / medians["vllm"],
        "difference_s": medians["raylaunch"] - medians["vllm"],
        "pairs": rows,
    }
    servers.write_result(f"ready-{options.case}", result)


if __name__ == "__main__":
    main()
