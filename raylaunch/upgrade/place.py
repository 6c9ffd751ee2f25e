"""Where an upgrade happens, and what is served there before and after it: here, on this machine."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from raylaunch.bench.target import Target, find_target
from raylaunch.config.launch import LaunchConfig
from raylaunch.config.launch_file import describe_rows, format_value
from raylaunch.serve import status
from raylaunch.serve.control_socket import request_restart
from raylaunch.serve.service_record import Service
from raylaunch.upgrade.gate import describe_changes

ANSWER_TIMEOUT_S = 120.0
"""Longest wait for one answer of an engine that is measured."""


@dataclass(frozen=True)
class Served:
    """What a service is made of."""

    launch: LaunchConfig
    image: str = ""
    """Of the cluster's containers; "" for a service of this machine."""

    def to_json(self) -> str:
        """With its secrets."""
        return json.dumps({"image": self.image, "launch": json.loads(self.launch.to_json())})

    @classmethod
    def from_json(cls, text: str) -> "Served":
        """What `to_json` wrote."""
        values = json.loads(text)
        return cls(LaunchConfig.from_json(json.dumps(values["launch"])), values["image"])


@dataclass(frozen=True)
class Preparation:
    """An upgrade that may begin."""

    old: Served
    new: Served
    changes: Sequence[str]
    """What differs, a line each; secrets are masked."""


def compare_launches(old: Served, new: Served) -> Preparation:
    """An upgrade to another launch or image."""
    values = [
        {"image": one.image} | {key: format_value(value) for key, value, _ in describe_rows(one.launch)}
        for one in (old, new)
    ]
    return Preparation(old, new, describe_changes(values[0], values[1]))


class Place(Protocol):
    """A service that can be exchanged."""

    @property
    def folder(self) -> Path:
        """Of what the last upgrade replaced, readable by its owner only."""

    @property
    def port(self) -> int:
        """Of the service."""

    @property
    def running(self) -> int | None:
        """Requests that run now."""

    def prepare(self, old: LaunchConfig, new: LaunchConfig) -> "Preparation":
        """Exchange a launch; nothing is changed yet."""

    def swap(self, now: Served, to: Served, /) -> str:
        """Serve `to`; what happened, as a sentence.

        Raises:
            RaylaunchError: it is not served; `now` is again, or the message tells what is.
        """

    def reach(self, served: Served) -> AbstractContextManager[Target]:
        """The API."""

    def settle(self, served: Served) -> None:
        """Write down that this stays."""


@dataclass(frozen=True)
class ThisMachine:
    """The service of this machine, or of the Ray cluster whose head this is."""

    service: Service
    report: Callable[[str], None]
    timeout_s: float

    @property
    def folder(self) -> Path:
        """The service's."""
        return self.service.folder

    @property
    def port(self) -> int:
        """The service's."""
        return self.service.port

    @property
    def running(self) -> int | None:
        """By the engine's metrics."""
        return status.query(self.service).requests_running

    def prepare(self, old: LaunchConfig, new: LaunchConfig) -> Preparation:
        """Compare them."""
        return compare_launches(Served(old), Served(new))

    def swap(self, _now: Served, to: Served, /) -> str:
        """As `raylaunch restart`."""
        return request_restart(self.service.folder, to.launch, report=self.report, timeout_s=self.timeout_s)

    @contextmanager
    def reach(self, served: Served) -> Iterator[Target]:
        """On loopback."""
        yield find_target(launch=served.launch, url=None, port=None, model=None, timeout_s=ANSWER_TIMEOUT_S)

    def settle(self, served: Served) -> None:
        """The service remembers its launch by itself."""
