"""`raylaunch bench` as a script for `ray submit`: it runs on the head, beside the service, and spreads over the nodes.

    ray submit configs/two-node.yaml benchmarks/job.py --concurrency 500

Arguments are those of `raylaunch bench`, in their long form (-n is `ray submit`'s own). What it measured is printed;
its files stay in the head's container, where its last line says (`raylaunch bench --cluster` brings them home).
"""

import sys
import time
from pathlib import Path


def main() -> None:
    from raylaunch.cli import main as cli

    arguments = sys.argv[1:]
    if not {"-o", "--output"} & set(arguments):
        folder = Path.home() / "raylaunch-bench" / time.strftime("%Y%m%d-%H%M%S")
        folder.mkdir(parents=True)
        arguments += ["--output", str(folder / "bench.json")]
    cli.main(["bench", *arguments])


if __name__ == "__main__":
    main()
