"""What differs from a launch's lock file, before it is served."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from raylaunch.base import console
from raylaunch.base.errors import ChecksFailedError
from raylaunch.base.viewpoint import Viewpoint
from raylaunch.config.launch import LaunchConfig
from raylaunch.config.layers import name_lock
from raylaunch.lock.collect import make_lock
from raylaunch.lock.lock_file import compare_locks, find_lock, read_lock
from raylaunch.node.facts import NodeFacts


def check_lock(launch: LaunchConfig, facts: Sequence[NodeFacts], environ: Mapping[str, str] = os.environ) -> None:
    """Print what differs from the lock file; no lock file is no difference, unless `keep.locked`.

    Raises:
        ChecksFailedError: something differs, or there is no lock file, and `keep.locked` is set.
    """
    view = Viewpoint.of_this_process(environ)
    file = Path(view.launch or launch.path or "LAUNCH.yaml")  # as the reader knows it
    shown, write = name_lock(file), view.command("lock", str(file))
    path = find_lock(launch.path)
    if path is None:
        if launch.keep.locked:
            raise ChecksFailedError(f"--locked: there is no {shown}", fix=f"`{write}` writes it")
        return
    differences = [found.describe() for found in compare_locks(read_lock(path), make_lock(launch, facts, environ))]
    for difference in differences:
        console.say(f"differs from {shown}: {difference}", style="yellow")
    if differences and launch.keep.locked:
        raise ChecksFailedError(
            f"--locked: not as in {shown}: {'; '.join(differences)}",
            fix=f"restore that, or write the lock again: `{write}`",
        )
