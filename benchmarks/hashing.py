"""How fast a model's files are hashed, against plain hashlib over the same file in the same run.

    python -m benchmarks.hashing --size-mib 512 --json

`read` is what `weights check` does with a file; `arriving` is a file that comes in chunks and is written and hashed
meanwhile, as in a pull. Beside them, in the same run: one core's hashlib.sha256 over the same file (complete chunks of
4 MiB) and over memory, and a plain copy of the file, unhashed. The median of 5 rounds, all in turn. The limit of what
arrives is the slower of the two: the hash of one core, or the disk (here tmpfs: nothing is faster).
"""

import argparse
import asyncio
import hashlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import servers
from raylaunch.weights.hub_types import RepoFile
from raylaunch.weights.partial_file import Finished, PartialFile, hash_file
from raylaunch.weights.transfer import CHUNK_BYTES, read_disk


def hash_plainly(path: Path) -> str:
    """One core, one loop."""
    digest = hashlib.sha256()
    for chunk in read_disk(path, 0, path.stat().st_size):
        digest.update(chunk)
    return digest.hexdigest()


def hash_memory(size: int) -> None:
    """The same without a file."""
    digest, chunk = hashlib.sha256(), os.urandom(CHUNK_BYTES)
    for _ in range(size // CHUNK_BYTES):
        digest.update(chunk)


def copy_plainly(path: Path, to: Path) -> None:
    """The file once more, unhashed."""
    with to.open("wb", buffering=0) as file:
        for chunk in read_disk(path, 0, path.stat().st_size):
            file.write(chunk)
    to.unlink()


def take_in(path: Path, wanted: RepoFile, folder: Path) -> None:
    """Append the file's chunks to a new one, which is written and hashed meanwhile."""

    async def append_all() -> None:
        part, offset = PartialFile(folder, "copy", wanted), 0
        for chunk in read_disk(path, 0, wanted.size):
            await part.append(offset, chunk)
            offset += len(chunk)
        assert isinstance(await part.finish(), Finished)

    asyncio.run(append_all())
    (folder / "copy").unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size-mib", type=int, default=512)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print the result as JSON (always done)")
    options = parser.parse_args()
    size = options.size_mib << 20
    with tempfile.TemporaryDirectory(prefix="raylaunch-hashing-", dir="/dev/shm") as place:
        path = Path(place) / "file"
        with path.open("wb") as file:
            for _ in range(options.size_mib):
                file.write(os.urandom(1 << 20))
        wanted = RepoFile(size, hash_plainly(path))
        ways: dict[str, Callable[[], object]] = {
            "memory": lambda: hash_memory(size),
            "plain": lambda: hash_plainly(path),
            "copy": lambda: copy_plainly(path, Path(place) / "copy"),
            "read": lambda: hash_file(path, wanted),
            "arriving": lambda: take_in(path, wanted, Path(place)),
        }
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(options.repeat):
            for way, work in ways.items():
                began = time.monotonic()
                work()
                seconds[way].append(time.monotonic() - began)
    medians = {way: statistics.median(taken) for way, taken in seconds.items()}
    servers.write_result(
        "hashing",
        {
            "size_mib": options.size_mib,
            "gb_s": {way: size / 1e9 / median for way, median in medians.items()},
            "read_to_plain": medians["read"] / medians["plain"],
            "arriving_to_limit": medians["arriving"] / max(medians["plain"], medians["copy"]),
        },
    )


if __name__ == "__main__":
    main()
