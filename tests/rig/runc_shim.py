#!/usr/bin/python3
"""Stands before runc on a rig's host, and for NVIDIA's runtime.

A machine without CAP_SYS_RESOURCE refuses limits above the hard one, and `--privileged`'s capability: there both are
left out, so that production options (`--gpus all --ipc=host --ulimit ...`) run unchanged. As
nvidia-container-runtime-hook (`docker run --gpus`) it does nothing: a rig's host has no GPU to hand over.
"""

import json
import os
import sys
from pathlib import Path

RUNC = "/usr/sbin/runc.real"
_SYS_RESOURCE = 1 << 24


def has_sys_resource() -> bool:
    """Whether this process may raise limits."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff:"))
    return bool(int(line.split()[1], 16) & _SYS_RESOURCE)


def strip(file: Path) -> None:
    """Take out of a container's (or an exec's) configuration what this machine refuses."""
    config = json.loads(file.read_text())
    process = config.get("process", config)
    process["rlimits"] = []
    for names in process.get("capabilities", {}).values():
        names[:] = [name for name in names if name != "CAP_SYS_RESOURCE"]
    file.write_text(json.dumps(config))


def main() -> None:
    arguments = sys.argv[1:]
    if sys.argv[0].endswith("-hook"):
        return
    if not has_sys_resource():
        if "create" in arguments:
            strip(Path(arguments[arguments.index("--bundle") + 1]) / "config.json")
        elif "exec" in arguments:
            strip(Path(arguments[arguments.index("--process") + 1]))
    os.execv(RUNC, ["runc", *arguments])


if __name__ == "__main__":
    main()
