"""A view of the head's, taken in on a laptop."""

from dataclasses import replace

from raylaunch.top.remote import take_in
from raylaunch.top.view import View, arrange_nodes, describe_service

from .facts import make_cluster, make_service


def test_moments_are_those_of_this_clock() -> None:
    """A head whose clock is an hour behind: its service is as old as it says."""
    service = replace(describe_service(make_service()), since=900.0, incident_at=950.0)
    taken = take_in(View(1000.0, arrange_nodes(make_cluster(), None), service), 4600.0)
    assert taken.at == 4600.0
    assert taken.service is not None
    assert (taken.service.since, taken.service.incident_at) == (4500.0, 4550.0)
    assert len(taken.nodes) == 2


def test_a_cluster_where_nothing_serves() -> None:
    """There are nodes to see, and no service to rename."""
    assert take_in(View(1.0, arrange_nodes(make_cluster(), None)), 2.0).service is None
