"""Keep looking: the samples of a child process, the service's record and the server's figures, once a second."""

import threading
import time
from collections.abc import Callable, Iterator

from raylaunch.base.errors import ServiceError
from raylaunch.base.http_client import fetch_text
from raylaunch.base.viewpoint import Viewpoint
from raylaunch.cluster import ray_session
from raylaunch.cluster.monitor import ClusterSample
from raylaunch.cluster.monitor_process import ChildMonitor
from raylaunch.engine.metrics import EngineFigures, EngineHistory, EngineRates, parse_metrics
from raylaunch.serve.service_record import Service, find_service, list_services
from raylaunch.top.view import View, arrange_nodes, describe_service

_METRICS_TIMEOUT_S = 2.0
_FIRST_SAMPLE_S = 60.0
"""Longest wait for a first sample: joining Ray, and a process on each node."""
_STALE_S = 5.0
_AGAIN_S = 5.0
"""After a sampling child ended, until another one is started."""


class ViewReader:
    """Looks at one service, or at the Ray cluster of this machine where nothing serves, or at this machine alone.

    Args:
        port: which service, where several run here.

    Raises:
        ServiceError: several services run here and no port was given, or none on that port.
    """

    def __init__(self, port: int | None) -> None:
        living = [found for found in list_services() if found.is_alive()]
        self._service: Service | None = find_service(port) if living or port is not None else None
        self._history = EngineHistory()
        self._monitor: ChildMonitor | None = None
        self._started_at = 0.0

    def close(self) -> None:
        """End the sampling, here and on all nodes."""
        if self._monitor is not None:
            self._monitor.close()
            self._monitor = None

    def read(self) -> View:
        """Everything now; returns when a new sample is there, or after a second or two without one."""
        monitor = self._follow_service()
        wait_s = _STALE_S if monitor.newest is not None else _FIRST_SAMPLE_S
        if monitor.arrived.wait(wait_s) and not monitor.ended:
            monitor.arrived.clear()
        if monitor.ended:
            time.sleep(1.0)  # the pace that samples would set
        seen = monitor.newest
        figures, rates = self._look_at_engine()
        return View(
            at=time.time(),
            nodes=arrange_nodes(seen, self._service) if seen else (),
            service=describe_service(self._service) if self._service else None,
            engine=figures,
            rates=rates,
            note=self._find_note(monitor, seen),
        )

    def _find_note(self, monitor: ChildMonitor, seen: ClusterSample | None) -> str:
        """Why there is less to see than there should be; "" where all is there."""
        if monitor.ended:
            return f"nodes are not sampled: {monitor.ended}"
        if seen is None:
            return f"no sample after {_FIRST_SAMPLE_S:.0f} s"
        if (age_s := time.time() - seen.at) > _STALE_S:
            return f"the last sample is {age_s:.0f} s old"
        place = Viewpoint.of_this_process().place
        if monitor.address is None:
            what = "the service has not joined Ray yet" if self._service else "no Ray runs there"
            return f"{what}: {place} alone"
        return "" if self._service else f"nothing serves on {place}; Ray at {monitor.address}"

    def _follow_service(self) -> ChildMonitor:
        """The sampling child of the cluster that the service is on now: an engine's restart may bring another one."""
        if self._service is not None:
            port = self._service.port
            found = [one for one in list_services() if one.port == port and one.is_alive()]
            if not found:
                raise ServiceError(
                    f"the service on port {port} is gone",
                    fix=f"`{Viewpoint.of_this_process().command('serve', 'LAUNCH.yaml')}` starts it again",
                )
            self._service = found[0]
        address = self._service.ray_address if self._service else ray_session.find_address()
        stale = self._monitor is not None and (
            self._monitor.address != address
            or (self._monitor.ended and time.monotonic() - self._started_at >= _AGAIN_S)
        )
        if stale:
            self.close()
        if self._monitor is None:
            self._monitor, self._started_at = ChildMonitor(address), time.monotonic()
        return self._monitor

    def _look_at_engine(self) -> tuple[EngineFigures | None, EngineRates | None]:
        if self._service is None:
            return None, None
        text = fetch_text(f"{self._service.url}/metrics", _METRICS_TIMEOUT_S, self._service.client_cert)
        figures = parse_metrics(text) if text else None
        return figures, self._history.add(figures) if figures else None


def watch(
    port: int | None, stop: threading.Event, *, make: Callable[[int | None], ViewReader] = ViewReader
) -> Iterator[View]:
    """A view each second until `stop` is set; then nothing of it is left on any node."""
    reader = make(port)
    try:
        while not stop.is_set():
            yield reader.read()
    finally:
        reader.close()


def look_once(port: int | None) -> View:
    """One view whose rates are those of the last two seconds."""
    reader = ViewReader(port)
    try:
        reader.read()
        reader.read()
        return reader.read()
    finally:
        reader.close()
