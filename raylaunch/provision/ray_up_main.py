"""Ray's own cluster launcher in its own process: `ray_up_main up|down`, the cluster's configuration as JSON on stdin.

It prints, calls sys.exit, and reads TMPDIR and RAY_TMPDIR at import: it must not run in the process of a command line.
"""

import json
import sys


def main() -> None:
    """Bring the cluster from stdin up, or down; does nothing where stdin is empty."""
    from ray.autoscaler import sdk  # takes a second, during which the parent checks the hosts

    text = sys.stdin.read()
    if not text:
        return
    if sys.argv[1] == "up":
        sdk.create_or_update_cluster(json.loads(text))
    else:
        sdk.teardown_cluster(json.loads(text))


if __name__ == "__main__":
    main()
