"""A cluster of four hosts: `up` brings all in, and one that was lost comes back beside the others."""

from pathlib import Path

import pytest

from raylaunch.base.processes import wait_until
from tests.rig.image import LOGICAL_GPUS, start_equipped_rig
from tests.rig.owner import CONTAINER, Owner

pytestmark = [pytest.mark.root, pytest.mark.rig, pytest.mark.whole]


def test_four_hosts(tmp_path: Path) -> None:
    """Each with its GPUs, by one command; again by one command, and only the lost one is touched; then nothing."""
    with start_equipped_rig("four", hosts=4) as rig:
        laptop = Owner.of(rig, tmp_path)
        assert f"4 hosts, {4 * LOGICAL_GPUS} GPUs" in laptop.up().stderr
        addresses = [host.address for host in rig.hosts]
        assert laptop.count_gpus() == dict.fromkeys(addresses, LOGICAL_GPUS)

        *stay, lost = rig.hosts
        started = [host.run(f"docker inspect -f '{{{{.State.StartedAt}}}}' {CONTAINER}").stdout for host in stay]
        lost.run(f"docker rm -f {CONTAINER}")
        assert wait_until(lambda: lost.address not in laptop.count_gpus(), 60)
        printed = laptop.up().stderr
        assert f"{', '.join(addresses[:3])} stay as they are; adding {lost.address}" in printed
        assert laptop.count_gpus() == dict.fromkeys(addresses, LOGICAL_GPUS)
        assert started == [
            host.run(f"docker inspect -f '{{{{.State.StartedAt}}}}' {CONTAINER}").stdout for host in stay
        ]

        laptop.down()
        assert laptop.list_traces() == []
