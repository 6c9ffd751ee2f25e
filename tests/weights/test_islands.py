"""The hosts that the tests of several hosts run on."""

from pathlib import Path

import pytest

from benchmarks.islands import islands


@pytest.mark.root
def test_hosts_can_follow_others_at_once(tmp_path: Path) -> None:
    """Needs root. The kernel is slow to take a namespace's links away; two modules of tests do not wait for it."""
    for _ in range(3):
        with islands(0, tmp_path / "data", bare=2, is_reachable=True) as made:
            assert len(made.islands) == 2
