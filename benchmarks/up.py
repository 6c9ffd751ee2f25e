"""Time from images present to every logical GPU confirmed: `raylaunch up` against plain `ray up` and polling.

    python -m benchmarks.up [--pairs 3]

Needs root: two hosts in namespaces, each with sshd and dockerd (tests/rig). Both use the same cluster file, on the same
hosts, in turns; `raylaunch down` is between. raylaunch's time holds its checks of the hosts.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import servers
from tests.rig.image import CACHE, LOGICAL_GPUS, find_docker_folder
from tests.rig.owner import Owner
from tests.rig.rig import start_rig

_POLL = """\
import time
while ray.cluster_resources().get('GPU', 0) < {gpus}:
    time.sleep(0.25)
print('all', flush=True)
"""


def time_plain(laptop: Owner, gpus: int) -> float:
    """`ray up -y`, which returns before its workers are there, then a driver on the head that asks until they are."""
    began = time.monotonic()
    laptop.must("up", "-y", str(laptop.cluster_file), program="ray")
    assert "all" in laptop.in_head(_POLL.format(gpus=gpus))
    return time.monotonic() - began


def time_ours(laptop: Owner) -> float:
    """`raylaunch up`, which returns when every GPU is in."""
    began = time.monotonic()
    laptop.up()
    return time.monotonic() - began


def main() -> None:
    """Measure in turns and write benchmarks/results/up.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=3)
    options = parser.parse_args()
    docker_folder = find_docker_folder()
    rows: list[dict[str, float]] = []
    with (
        tempfile.TemporaryDirectory(prefix="bench-", dir=CACHE) as folder,
        start_rig(Path(folder) / "hosts", docker_folder=docker_folder) as rig,
    ):
        for host in rig.hosts:
            host.write("/etc/rig-gpus", f"COUNT={LOGICAL_GPUS}\n")
        laptop = Owner.of(rig, Path(folder))
        laptop.up()  # builds the image's layer on both
        laptop.down()
        for pair in range(options.pairs):
            row: dict[str, float] = {}
            for name in ("raylaunch", "ray") if pair % 2 else ("ray", "raylaunch"):
                row[name] = (
                    time_ours(laptop) if name == "raylaunch" else time_plain(laptop, len(rig.hosts) * LOGICAL_GPUS)
                )
                laptop.down()
            rows.append(row)
            print(row, flush=True)
    medians: dict[str, Any] = {name: round(statistics.median(row[name] for row in rows), 1) for name in rows[0]}
    ratio = round(statistics.median(row["raylaunch"] / row["ray"] for row in rows), 3)
    servers.write_result(
        "up", {"hosts": 2, "gpus": 2 * LOGICAL_GPUS, "seconds": rows, "median_s": medians, "ratio": ratio}
    )


if __name__ == "__main__":
    main()
