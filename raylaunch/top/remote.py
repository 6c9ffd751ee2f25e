"""Views of a cluster, from the laptop: `raylaunch top --json` on its head, a line a second over ssh."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from pydantic import TypeAdapter

from raylaunch.config import cluster_file
from raylaunch.provision.remote import read_lines
from raylaunch.top.view import View

_VIEW = TypeAdapter(View)


def watch(cluster: Path, port: int | None) -> Iterator[View]:
    """A view each second; what looks on the head ends with this iterator.

    Raises:
        ClusterError: the cluster is not up, or cannot be reached.
        ServiceError: nothing is to be seen there, in the head's words.
    """
    for line in read_lines(cluster_file.load(cluster), ["top", "--json"], port):
        yield take_in(_VIEW.validate_json(line), time.time())


def look_once(cluster: Path, port: int | None) -> View:
    """One view, whose rates are those of the last two seconds.

    Raises:
        ClusterError: the cluster is not up, or cannot be reached.
        ServiceError: nothing is to be seen there, in the head's words.
    """
    lines = read_lines(cluster_file.load(cluster), ["top", "--once", "--json"], port)
    return take_in(_VIEW.validate_json("".join(lines)), time.time())


def take_in(view: View, now: float) -> View:
    """A view of the head's with moments by this machine's clock."""
    service = view.service
    if service is None:
        return replace(view, at=now)
    ahead_s = now - view.at
    incident_at = None if service.incident_at is None else service.incident_at + ahead_s
    here = replace(service, since=service.since + ahead_s, incident_at=incident_at)
    return replace(view, at=now, service=here)
