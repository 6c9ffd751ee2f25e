"""Ray's own cluster launcher in a process of its own: `ray_up_main up|down`, the cluster on stdin.

It prints by itself, leaves by sys.exit and keeps files where TMPDIR and RAY_TMPDIR say at import: none of that belongs
into the process of a command line.
"""

import json
import sys


def main() -> None:
    """Read the cluster's configuration as JSON and bring it up, or down; nothing, where none comes."""
    from ray.autoscaler import sdk  # takes a second, while whoever started this looks at the hosts

    text = sys.stdin.read()
    if not text:
        return
    order = json.loads(text)
    if sys.argv[1] == "up":
        sdk.create_or_update_cluster(order["cluster"])
    else:
        sdk.teardown_cluster(order["cluster"])


if __name__ == "__main__":
    main()
