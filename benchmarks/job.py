"""`raylaunch bench` as a script for `ray submit`: it runs on the head, beside the service, and spreads over the nodes.

    ray submit configs/two-node.yaml benchmarks/job.py --concurrency 500

Arguments are those of `raylaunch bench`, in their long form (-n is `ray submit`'s own). What it measured is printed;
its files stay on the head, in the folder that its last line names (`raylaunch bench --cluster` brings them home).
"""

import sys
import time
from pathlib import Path


def main() -> None:
    from raylaunch.cli import main as cli

    folder = Path.home() / "raylaunch-bench" / time.strftime("%Y%m%d-%H%M%S")
    arguments = sys.argv[1:]
    if not {"-o", "--output"} & set(arguments):
        folder.mkdir(parents=True)
        arguments += ["--output", str(folder / "bench.json")]
    try:
        cli.main(["bench", *arguments])
    finally:
        if folder.exists():
            print(f"files: {folder}")


if __name__ == "__main__":
    main()
