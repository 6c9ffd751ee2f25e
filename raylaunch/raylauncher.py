"""Ray's own cluster launcher in a process of its own: `python -m raylaunch.raylauncher up|down`, the cluster on stdin.

It prints by itself, leaves by sys.exit and keeps files where TMPDIR and RAY_TMPDIR say at import: none of that belongs
into the process of a command line.
"""

import json
import sys


def main() -> None:
    """Read the cluster's configuration as JSON and bring it up, or down."""
    order = json.load(sys.stdin)
    from ray.autoscaler import sdk

    if sys.argv[1] == "up":
        sdk.create_or_update_cluster(order["cluster"], no_restart=order["no_restart"])
    else:
        sdk.teardown_cluster(order["cluster"])


if __name__ == "__main__":
    main()
