"""A container image that a rig's hosts can run, made of what is on this machine: no registry is asked."""

import re
import shutil
import subprocess
from pathlib import Path

from tests.rig.host import run_here

_PROGRAMS = ("/bin/bash", "/bin/sleep", "/bin/cat", "/usr/bin/env")


def write_small_image(archive: Path) -> Path:
    """Write the root file system of an image with bash, sleep, cat and env (a few MB, for `Host.import_image`)."""
    root = archive.with_suffix(".root")
    (root / "tmp").mkdir(parents=True)
    for program in _PROGRAMS:
        libraries = re.findall(r"(/\S+)(?= \(0x)", subprocess.check_output(["ldd", program], text=True))
        for file in (program, *libraries):
            place = root / file.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            if not place.exists():
                shutil.copy(file, place)
    run_here("tar", "-C", str(root), "--numeric-owner", "-cf", str(archive), ".")
    shutil.rmtree(root)
    return archive
