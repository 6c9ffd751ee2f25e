"""How long `raylaunch --help` takes, in units of `python -c "import click"`.

python -m benchmarks.command_line [--runs 15]
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import servers


def time_command(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    options = parser.parse_args()
    commands = {
        "import click": [sys.executable, "-c", "import click"],
        "raylaunch --help": [str(Path(sys.executable).parent / "raylaunch"), "--help"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(options.runs):
        for name, command in commands.items():
            seconds[name].append(time_command(command))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    result = {"median_s": medians, "ratio": medians["raylaunch --help"] / medians["import click"]}
    servers.write_result("command-line", result)


if __name__ == "__main__":
    main()
