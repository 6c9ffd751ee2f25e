"""What a service publishes: its record for `raylaunch status`, the listener's notice, and its metrics."""

import os
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from raylaunch.base import console, paths
from raylaunch.base.processes import ProcessId
from raylaunch.base.service_metrics import ReplicaMetrics, ServiceMetrics
from raylaunch.config.companions import list_fetched
from raylaunch.config.launch import LaunchConfig
from raylaunch.engine import metrics_folder
from raylaunch.engine.messages import ApiServers, EngineReady
from raylaunch.serve.attempt import Attempt
from raylaunch.serve.faults import EngineProgress, Fault
from raylaunch.serve.messages import DriverPulse, PlacedRank
from raylaunch.serve.private_ray import PrivateRays
from raylaunch.serve.readiness import StartupTimes
from raylaunch.serve.service_record import ReplicaRecord, Service, folder_of
from raylaunch.serve.start_forecast import StartForecast
from raylaunch.serve.unready_answer import Notice

_SEND_EVERY_S = 1.0
_STARTING = ("starting", "restarting")
_BEST_FIRST = ("ready", "draining", "restarting", "starting", "stopping")
"""A service is in the best state that one of its replicas is in."""


class ReplicaState:
    """The published state of one replica. Its own thread writes; every change is published at once."""

    def __init__(self, index: int, service: "PublishedState") -> None:
        self.index, self._service = index, service
        self.state, self.note = "starting", ""
        self._since = time.monotonic()
        self.carried: tuple[str, ...] = ()
        """Addresses of the nodes that carry the engine, or carried the last one."""
        self.ranks: tuple[PlacedRank, ...] = ()
        self.leaders: tuple[ProcessId, ...] = ()
        self.ray_address: str | None = None
        self.ray_folder: Path | None = None
        self.mark = ""
        self.api_servers: tuple[int, ...] = ()
        self.stand_by: int | None = None
        self.engine: EngineReady | None = None
        self.startup: StartupTimes | None = None
        self.layout, self.degraded = 0, ""
        self.pulse = DriverPulse()
        """The last one that knew of its Ray."""
        self.progress_age_s = 0.0
        self._sent_at = 0.0
        self._printed: ApiServers | None = None

    def set_state(self, state: str, note: str = "") -> None:
        """Publish the state; from the start of an engine on, Retry-After counts."""
        if state != self.state:
            self._since = time.monotonic()
        self.state, self.note = state, note
        self._service.publish(has_begun=state in _STARTING)

    def set_note(self, note: str) -> None:
        """Publish what is waited for."""
        if note != self.note:
            self.note = note
            self._service.publish()

    def set_layout(self, number: int, degraded: str) -> None:
        """Publish which layout is served: 0 is the launch's own; else what is served instead, and why."""
        if (number, degraded) != (self.layout, self.degraded):
            if number != self.layout:
                console.say(f"degraded: {degraded}" if degraded else "starting the launch's own layout", style="yellow")
            self.layout, self.degraded = number, degraded
            self._service.publish()

    def set_ready(self, attempt: Attempt, times: StartupTimes) -> None:
        """Publish that its engine serves."""
        pids = attempt.driver.pulse.pids if attempt.driver else {}
        self.ranks = tuple(replace(rank, pid=pids.get(rank.rank)) for rank in self.ranks)
        self.engine, self.startup = attempt.engine.ready, times
        self.set_state("ready")

    @property
    def state_s(self) -> float:
        """Seconds since the last change of state."""
        return time.monotonic() - self._since

    def note_processes(self, attempts: Sequence[Attempt], rays: PrivateRays, mark: str) -> None:
        """Record the processes that have to be ended if this process is killed."""
        driver = attempts[-1].driver if attempts else None
        placed = driver.placed.ranks if driver and driver.placed else ()
        self.ranks = tuple(replace(rank, replica=self.index) for rank in placed)
        self.carried = tuple(dict.fromkeys(rank.ip for rank in placed)) or self.carried
        self.leaders = (*(leader for attempt in attempts for leader in attempt.leaders), *rays.leaders)
        self.ray_address = (driver.address or None) if driver else None
        self.ray_folder, self.mark = rays.folder, mark
        self._service.publish()

    def note_stand_by(self, pid: int | None) -> None:
        """Record the pid of the standby."""
        if pid != self.stand_by:
            self.stand_by = pid
            self._service.publish()

    def update(self, attempt: Attempt, progress: EngineProgress) -> None:
        """Bring the metrics up to date, and send them to the API servers once a second for their /metrics."""
        now = time.monotonic()
        self.progress_age_s = progress.age_s(now)
        if attempt.driver and attempt.driver.pulse.gpus is not None:
            self.pulse = attempt.driver.pulse
        elif (waiting := attempt.gpu_wait) is not None:
            self.pulse = replace(self.pulse, gpus=waiting.gpus)
        self.api_servers = attempt.engine.api_servers
        servers = attempt.engine.last(ApiServers)
        if servers is not None and servers is not self._printed:
            self._printed = servers
            if servers.note:
                console.say(f"warning: {servers.note}", style="yellow")
        self._service.publish()
        if now - self._sent_at >= _SEND_EVERY_S and attempt.engine.ready is not None:
            self._sent_at = now
            attempt.engine.send(self._service.metrics)

    def make_record(self) -> ReplicaRecord:
        """What `raylaunch status` shows of it."""
        return ReplicaRecord(
            index=self.index,
            state=self.state,
            note=self.note,
            nodes=tuple(dict.fromkeys(rank.ip for rank in self.ranks)),
            ranks=tuple(rank.rank for rank in self.ranks),
            api_servers=self.api_servers if self.state == "ready" else (),
            ray_address=self.ray_address,
        )


class PublishedState:
    """The published state of one service: that of its replicas, put together."""

    def __init__(self, launch: LaunchConfig, *, rehearsal: str | None) -> None:
        self._lock = threading.RLock()
        self._incidents: dict[str, int] = {}
        self._last_incident_at = 0.0
        self._gpus_expected = 0
        identity, now = ProcessId.of(os.getpid()), time.time()
        assert identity is not None
        folder = paths.make_private(folder_of(launch.port))
        self._forecast = StartForecast(folder / "starts.json", kind="starting")
        self.replicas = tuple(ReplicaState(index, self) for index in range(launch.replicas))
        self.service = Service(
            port=launch.port,
            host=launch.host,
            models=(),
            fingerprint="",
            supervisor=identity,
            started_at=now,
            state_since=now,
            rehearsal=rehearsal,
        )
        self.take_launch(launch)

    def take_launch(self, launch: LaunchConfig) -> None:
        """Publish the launch that is served from now on, at the same address as any before it."""
        fingerprint = launch.fingerprint()
        with self._lock:
            self._forecast.take_launch(fingerprint + (f" {self.service.rehearsal}" if self.service.rehearsal else ""))
            self._gpus_expected = launch.world_size * launch.replicas
            self.service = self.service.update(
                models=launch.served_model_names,
                fingerprint=fingerprint,
                launch_file=str(launch.path) if launch.path else None,
                model_folders=(str(launch.model_folder), *(found.folder for found in list_fetched(launch))),
                needs_api_key=bool(launch.api_keys),
                tls=launch.uses_tls,
                client_cert=launch.client_cert,
            )

    def publish(self, *, has_begun: bool = False) -> None:
        """Write the record of what the replicas are in now, if it changed.

        Args:
            has_begun: the start of an engine has begun.
        """
        with self._lock:
            replicas, before = self.replicas, self.service
            state = next(best for best in _BEST_FIRST if any(one.state == best for one in replicas))
            if has_begun and state in _STARTING:
                self._forecast.begin(state)
            becomes_ready = state == "ready" != before.state
            if becomes_ready:
                self._forecast.note_ready()
            after = replace(
                before,
                state=state,
                state_since=before.state_since if state == before.state else time.time(),
                note=self._describe(),
                ready_at=time.time() if becomes_ready else before.ready_at,
                engine=next((one.engine for one in replicas if one.engine), None),
                startup=next((one.startup for one in replicas if one.startup), None),
                layout=replicas[0].layout,  # only a single replica has fallbacks
                degraded=replicas[0].degraded,
                ranks=tuple(rank for one in replicas for rank in one.ranks),
                replicas=tuple(one.make_record() for one in replicas),
                group_leaders=tuple(leader for one in replicas for leader in one.leaders),
                ray_address=next((one.ray_address for one in replicas if one.ray_address), None),
                private_ray_folders=tuple(str(one.ray_folder) for one in replicas if one.ray_folder),
                mark=next((one.mark for one in replicas if one.mark), ""),
                stand_by=next((one.stand_by for one in replicas if one.stand_by), None),
                warnings=tuple(dict.fromkeys(warning for one in replicas for warning in one.pulse.warnings)),
            )
            if after != before:
                self.service = after.save()
                for warning in after.warnings:
                    if warning not in before.warnings:
                        console.say(f"warning: {warning}", style="yellow")

    def _describe(self) -> str:
        """What is happening; of several replicas, to each that is not ready."""
        if len(self.replicas) == 1:
            return self.replicas[0].note
        return "; ".join(
            f"replica {one.index} is {one.state}{f': {one.note}' if one.note else ''}"
            for one in self.replicas
            if one.state != "ready"
        )

    @property
    def metrics(self) -> ServiceMetrics:
        """The metrics of this moment."""
        with self._lock:
            service, replicas = self.service, self.replicas
            present = [one.pulse.gpus or 0 for one in replicas]
            return ServiceMetrics(
                state=service.state,
                restarts=service.restarts,
                incidents=dict(self._incidents),
                last_incident_at=self._last_incident_at,
                ready_at=service.ready_at or 0.0,
                gpus_expected=self._gpus_expected,
                gpus_present=sum(present) if service.private_ray_folders else max(present),  # a private Ray each
                layout=service.layout,
                progress_age_s=max(one.progress_age_s for one in replicas),
                throttled=tuple(dict.fromkeys(gpu for one in replicas for gpu in one.pulse.throttled)),
                replicas=tuple(
                    ReplicaMetrics(one.state == "ready", len(one.api_servers), str(metrics_folder.find(one.mark)))
                    for one in replicas
                ),
            )

    def note_incident(self, incident_id: str, fault: Fault) -> None:
        """Count an incident."""
        with self._lock:
            self._incidents[fault.cause] = self._incidents.get(fault.cause, 0) + 1
            self._last_incident_at = time.time()
            self.service = self.service.update(last_incident=incident_id)

    def note_restart(self) -> None:
        """Count a start after the first one."""
        with self._lock:
            self.service = self.service.update(restarts=self.service.restarts + 1)

    def make_notice(self) -> Notice:
        """What the listener answers at this moment (called from its thread)."""
        service = self.service
        state, degraded = service.state, f"degraded: {service.degraded}" if service.degraded else ""
        return Notice(
            state=state,
            text="; ".join(filter(None, (f"{state}: {service.note}" if service.note else state, degraded))),
            retry_after_s=None if state in ("draining", "stopping") else self._forecast.retry_after_s(),
            metrics=self.metrics.to_text(),
        )
