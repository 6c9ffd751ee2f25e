"""The tests' hub in a process of its own, with a model of a size: prints its address, and serves until it is ended.

python -m benchmarks.spread_hub HOST SIZE_MIB FILES     (tests/ on PYTHONPATH)
"""

import os
import sys
import threading

from benchmarks.spread_inside import REPO
from tests.hub_server import Hub, serve


def main(host: str, size_mib: int, files: int) -> None:
    block = os.urandom(1 << 20)
    bodies: dict[str, bytes] = {"config.json": b"{}"}
    for number in range(files):
        pieces = (number.to_bytes(4, "big") + at.to_bytes(4, "big") + block[8:] for at in range(size_mib // files))
        bodies[f"model-{number + 1:05}-of-{files:05}.safetensors"] = b"".join(pieces)
    with serve(Hub(REPO, bodies), host) as hub:
        print(hub.url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
