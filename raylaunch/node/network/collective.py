"""One rank's part in trying PyTorch's collectives: a program of its own, which can be killed when it hangs.

It runs as `python -c SOURCE`, so it imports nothing of raylaunch. It imports PyTorch once; each line on stdin is a
trial (JSON), run in a forked child, because NCCL reads its settings once per process. Each step of a trial is a line of
JSON on stdout: {"trial": ..., "step": ..., ...}; the last step is "end" or "error".
"""

import contextlib
import datetime
import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

_REPEATS = 3
_POLL_MS = 20
_PATTERN = 251
"""A prime: no power of two divides it, so shifted blocks do not look alike."""


def report(trial: str, step: str, **facts: object) -> None:
    """Write one step."""
    os.write(1, (json.dumps({"trial": trial, "step": step, **facts}) + "\n").encode())


def main() -> None:
    """Import PyTorch, then fork a child for each trial until stdin closes."""
    began = time.monotonic()
    import torch
    import torch.distributed

    report("", "imported", seconds=time.monotonic() - began, torch=torch.__version__)
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            run_trial(order)
        _await_child(child)


def _await_child(child: int) -> None:
    """Wait for a trial's end; kill it when stdin closes: the actor that would is gone."""
    watched = select.poll()
    watched.register(sys.stdin, 0)  # a hang-up is always reported
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if watched.poll(_POLL_MS):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return


def run_trial(order: Mapping[str, Any]) -> None:
    """Join the group, run the tasks, and end this process."""
    name = order["name"]
    os.environ.update(order["environment"])
    code = 0
    try:
        _join_and_run(order)
    except Exception as error:  # noqa: BLE001 (whatever PyTorch raises is the result of the trial)
        report(name, "error", text=str(error)[:2000])
        code = 1
    else:
        report(name, "end")
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    os._exit(code)  # no destructors: those of a broken group may hang


def _join_and_run(order: Mapping[str, Any]) -> None:
    import torch
    import torch.distributed as dist

    name, rank, world = order["name"], order["rank"], order["world"]
    timeout = datetime.timedelta(seconds=order["timeout_s"])
    uses_gpu = order["backend"] == "nccl"
    if uses_gpu:
        torch.cuda.set_device(order["device"])
        torch.zeros(1, device="cuda")  # the CUDA context, 1 to 3 s, is no part of what is timed
    report(name, "begun")
    store = dist.TCPStore(order["host"], order["port"], world, rank == 0, timeout)
    store.set(f"here {rank}", b"1")
    report(name, "store")
    dist.init_process_group(order["backend"], store=store, rank=rank, world_size=world, timeout=timeout)
    device = torch.device("cuda", order["device"]) if uses_gpu else torch.device("cpu")
    if uses_gpu:
        dist.barrier(device_ids=[order["device"]])  # connects
        torch.cuda.synchronize()
    report(name, "group")
    tasks: dict[str, Callable[..., None]] = {
        "barrier": _run_barrier, "allreduce": _run_allreduce, "hops": _run_hops, "matmul": _run_matmul,
    }  # fmt: skip
    for task in order["tasks"]:
        tasks[task["kind"]](name, rank, world, device, **{key: task[key] for key in task if key != "kind"})


def _wait(device: Any) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize()


def _run_barrier(name: str, _rank: int, _world: int, _device: Any, *, timeout_s: float) -> None:
    """Gloo's monitored barrier: rank 0's error names the ranks that did not come."""
    import torch.distributed as dist

    dist.monitored_barrier(timeout=datetime.timedelta(seconds=timeout_s), wait_all_ranks=True)
    report(name, "barrier")


def _run_allreduce(name: str, rank: int, world: int, device: Any, *, count: int) -> None:
    """All-reduce `count` float32 values, check every one of them, and time it."""
    import torch
    import torch.distributed as dist

    index = torch.arange(count, device=device, dtype=torch.float32) % _PATTERN
    expected = world * index + world * (world + 1) / 2
    is_right, seconds = True, []
    for _ in range(_REPEATS):
        values = index + (rank + 1)
        _wait(device)
        began = time.perf_counter()
        dist.all_reduce(values)
        _wait(device)
        seconds.append(time.perf_counter() - began)
        is_right = is_right and bool(torch.equal(values, expected))
    report(name, "allreduce", bytes=4 * count, seconds=min(seconds), is_right=is_right)


def _run_hops(
    name: str, rank: int, _world: int, device: Any, *, stages: list[list[int]], prefill: int, decode: int
) -> None:
    """Pipeline neighbours, one hop after the other: every rank of a stage sends its share to its peer in the next.

    `prefill` and `decode` are the bytes that one rank sends for a prefill chunk and for a decode step.
    """
    import torch
    import torch.distributed as dist

    for number in range(len(stages) - 1):
        here, there = stages[number], stages[number + 1]
        for kind, size in (("prefill", prefill), ("decode", decode)):
            data = torch.full((size,), number + 1, dtype=torch.uint8, device=device)
            seconds = []
            for _ in range(_REPEATS + 1):
                dist.barrier(device_ids=None if device.index is None else [device.index])
                _wait(device)
                began = time.perf_counter()
                if rank in here:
                    dist.send(data, there[here.index(rank)])
                elif rank in there:
                    data.zero_()
                    dist.recv(data, here[there.index(rank)])
                _wait(device)
                seconds.append(time.perf_counter() - began)
            if rank in there:
                is_right = bool((data == number + 1).all())
                report(name, "hop", hop=number, kind=kind, bytes=size, seconds=min(seconds[1:]), is_right=is_right)


def _run_matmul(name: str, _rank: int, _world: int, device: Any, *, size: int) -> None:
    """What the GPU computes: half-precision matrix products of `size` x `size`, in FLOP/s."""
    import torch

    left = torch.ones((size, size), dtype=torch.float16, device=device)
    torch.mm(left, left)
    _wait(device)
    began, count = time.perf_counter(), 8
    for _ in range(count):
        torch.mm(left, left)
    _wait(device)
    report(name, "matmul", flop_s=2 * size**3 * count / (time.perf_counter() - began))


if __name__ == "__main__":
    main()
