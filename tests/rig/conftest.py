"""Two hosts for all tests of a run: each test undoes what it did to them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rig.images import write_small_image
from tests.rig.rig import Rig, start_rig


@pytest.fixture(scope="session")
def two_hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """h1 and h2, with sshd, dockerd and (by the stand-in for nvidia-smi) eight GPUs each."""
    with start_rig(tmp_path_factory.mktemp("rig") / "hosts") as rig:
        yield rig


@pytest.fixture(scope="session")
def small_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive for Host.import_image."""
    return write_small_image(tmp_path_factory.mktemp("image") / "small.tar")
