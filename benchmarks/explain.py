"""How fast `raylaunch explain` reads logs, and how much memory it needs.

    python -m benchmarks.explain --size-mb 1000 --json

Four logs in /dev/shm, each with one failure in its middle: `engine` is what vLLM writes while it serves (counters,
addresses and ids differ in every line), `ray` is Ray's C++ logs, `errors` is one error in every line, `words` is text
that never repeats, the worst case. Each is read in a process of its own, as by the command.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

FAILURE = "(Worker_TP1 pid=7) ERROR 11-24 02:47:02 [w.py:9] torch.OutOfMemoryError: CUDA out of memory. Tried to\n"
LETTERS = "eeeeeeeeeeeetttttttttaaaaaaaaoooooooiiiiiiinnnnnnnsssssshhhhhhrrrrrrddddllllccuummwwffggyyppbvkjxqz"


def engine(source: random.Random) -> str:
    number, clock = source.random() * 1000, f"{source.randrange(60):02}:{source.randrange(60):02}"
    return (
        f"(EngineCore pid=99) INFO 11-24 02:{clock} [loggers.py:259] Engine 000: Avg prompt throughput: {number:.1f} "
        f"tokens/s, Running: {source.randrange(500)} reqs, Waiting: 0 reqs, GPU KV cache usage: {number / 9:.1f}%\n"
        f'(APIServer pid=1) INFO:     10.0.0.9:{source.randrange(65536)} - "POST /v1/chat/completions HTTP/1.1" 200\n'
        f"(APIServer pid=1) INFO 11-24 02:{clock} [logger.py:4] Finished chatcmpl-{source.getrandbits(128):032x}\n"
    )


def ray(source: random.Random) -> str:
    clock = f"{source.randrange(60):02}:{source.randrange(60):02},{source.randrange(1000):03}"
    return (
        f"[2026-11-24 02:{clock} I 812 {source.randrange(999)}] (raylet) node_manager.cc:{source.randrange(3000)}: "
        f"Leased worker {source.getrandbits(224):056x} for task, IsAlive = 1\n"
    )


def errors(source: random.Random) -> str:
    pid = source.randrange(9999)
    return f"(Worker pid={pid}) ERROR 11-24 02:47:02 [w.py:9] RuntimeError: CUDA error: an illegal memory access\n"


def words(source: random.Random) -> str:
    return " ".join("".join(source.choices(LETTERS, k=source.randrange(2, 10))) for _ in range(15)) + "\n"


KINDS: dict[str, Callable[[random.Random], str]] = {"engine": engine, "ray": ray, "errors": errors, "words": words}


def write_log(path: Path, kind: str, size: int) -> None:
    """About `size` bytes: 4 MB of lines again and again (or their words, shuffled), the failure in the middle."""
    source = random.Random(7)
    piece, length = [], 0
    while length < min(size, 4_000_000):
        piece.append(KINDS[kind](source))
        length += len(piece[-1])
    text = "".join(piece).encode()
    with path.open("wb") as file:
        for at in range(max(1, size // len(text))):
            if kind == "words":
                shuffled = text.split(b" ")
                source.shuffle(shuffled)
                text = b" ".join(shuffled)
            file.write(text)
            if at == size // len(text) // 2:
                file.write(FAILURE.encode())


def measure(kind: str, size: int) -> dict[str, object]:
    """One log, read once."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        log = Path(folder) / f"{kind}.log"
        write_log(log, kind, size)
        megabytes = log.stat().st_size / 1e6
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        command = [sys.executable, "-m", "raylaunch", "explain", "--json", str(log)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    keys = [cause["key"] for cause in json.loads(done.stdout)["causes"]]
    return {
        "log": kind,
        "mb": round(megabytes),
        "mb_s": round(megabytes / seconds),
        "mb_per_cpu_s": round(megabytes / cpu_s),
        "peak_mib": after.ru_maxrss // 1024,
        "keys": keys,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size-mb", type=int, default=1000)
    parser.add_argument("--log", choices=KINDS, action="append", help="Only this one.")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    for kind in arguments.log or KINDS:
        result = measure(kind, arguments.size_mb * 1_000_000)
        print(json.dumps(result) if arguments.json else "  ".join(f"{name} {value}" for name, value in result.items()))


if __name__ == "__main__":
    main()
