"""What the reference run offers at each level."""

import pytest

from benchmarks.reference_loads import Load, plan_loads

SWEPT = {
    "levels": [
        {"load": {"concurrency": at_once}, "requests_ok": 2 * at_once, "requests_per_s": 10.0} for at_once in (1, 8, 64)
    ]
}


@pytest.mark.parametrize(
    ("levels", "requests", "loop", "expected"),
    [
        ("64,8", None, "closed", [Load(64, 128), Load(8, 16)]),
        ("1,8", "20", "closed", [Load(1, 20), Load(8, 20)]),
        ("1,8", "20,160", "open", [Load(1, 32, 8.0), Load(8, 160, 8.0)]),
    ],
)
def test_in_the_order_asked_for(levels: str, requests: str | None, loop: str, expected: list[Load]) -> None:
    """As many requests as said, else as swept; an open loop has at least 32, at 0.8 of the rate."""
    assert list(plan_loads(SWEPT, levels, requests, loop)) == expected


@pytest.mark.parametrize(
    ("levels", "requests", "reported"),
    [("1,2", None, "--levels 2: not in the sweep"), ("1,8,64", "7,8", "--requests 7,8")],
)
def test_what_is_not_to_be_had(levels: str, requests: str | None, reported: str) -> None:
    with pytest.raises(SystemExit, match=reported):
        list(plan_loads(SWEPT, levels, requests, "closed"))
