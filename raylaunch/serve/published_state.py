"""What a service publishes: its record for `raylaunch status`, the listener's notice, and its metrics."""

import os
import time
from collections.abc import Sequence
from dataclasses import replace

from raylaunch.base import console, paths
from raylaunch.base.processes import ProcessId
from raylaunch.base.service_metrics import ServiceMetrics
from raylaunch.config.launch import LaunchConfig
from raylaunch.engine.messages import ApiServers
from raylaunch.serve.attempt import Attempt
from raylaunch.serve.faults import EngineProgress, Fault
from raylaunch.serve.messages import DriverPulse
from raylaunch.serve.private_ray import PrivateRays
from raylaunch.serve.readiness import StartupTimes
from raylaunch.serve.service_record import ReplicaRecord, Service, folder_of
from raylaunch.serve.start_forecast import StartForecast
from raylaunch.serve.unready_answer import Notice

_SEND_EVERY_S = 1.0
_STARTING = ("starting", "restarting")


class PublishedState:
    """The published state of one service. The supervisor's main thread writes; the listener's thread reads."""

    def __init__(self, launch: LaunchConfig, *, rehearsal: str | None) -> None:
        self._metrics = ServiceMetrics()
        self._since = time.monotonic()
        self._sent_at = 0.0
        self._printed: ApiServers | None = None
        self.carried: tuple[str, ...] = ()
        """Addresses of the nodes that carry the engine, or carried the last one."""
        identity, now = ProcessId.of(os.getpid()), time.time()
        assert identity is not None
        folder = paths.make_private(folder_of(launch.port))
        self._forecast = StartForecast(folder / "starts.json", kind="starting")
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

    @property
    def metrics(self) -> ServiceMetrics:
        """The metrics of this moment."""
        service = self.service
        return replace(self._metrics, state=service.state, restarts=service.restarts, ready_at=service.ready_at or 0.0)

    def take_launch(self, launch: LaunchConfig) -> None:
        """Publish the launch that is served from now on, at the same address as any before it."""
        fingerprint = launch.fingerprint()
        self._forecast.take_launch(fingerprint + (f" {self.service.rehearsal}" if self.service.rehearsal else ""))
        self._metrics = replace(self._metrics, gpus_expected=launch.world_size)
        self.service = self.service.update(
            models=launch.served_model_names,
            fingerprint=fingerprint,
            launch_file=str(launch.path) if launch.path else None,
            needs_api_key=bool(launch.api_keys),
            tls=launch.uses_tls,
            client_cert=launch.client_cert,
        )

    def set_state(self, state: str, note: str = "") -> None:
        """Publish the service's state; from the start of an engine on, Retry-After counts."""
        since = self.service.state_since
        if state != self.service.state:
            self._since, since = time.monotonic(), time.time()
        if state in _STARTING:
            self._forecast.begin(state)
        self.service = self.service.update(state=state, note=note, state_since=since)

    def set_note(self, note: str) -> None:
        """Publish what the service waits for."""
        if note != self.service.note:
            self.service = self.service.update(note=note)

    def set_ready(self, attempt: Attempt, times: StartupTimes) -> None:
        """Publish that an engine serves."""
        self._forecast.note_ready()
        pids = attempt.driver.pulse.pids if attempt.driver else {}
        self.service = self.service.update(
            ready_at=time.time(),
            engine=attempt.engine.ready,
            startup=times,
            ranks=tuple(replace(rank, pid=pids.get(rank.rank)) for rank in self.service.ranks),
        )
        self.set_state("ready")

    @property
    def state_s(self) -> float:
        """Seconds since the last change of state."""
        return time.monotonic() - self._since

    def note_processes(self, attempts: Sequence[Attempt], rays: PrivateRays, mark: str) -> None:
        """Record the processes that have to be ended if this process is killed."""
        last = attempts[-1] if attempts else None
        driver = last.driver if last else None
        ranks = driver.placed.ranks if driver and driver.placed else ()
        self.carried = tuple(dict.fromkeys(rank.ip for rank in ranks)) or self.carried
        self.service = self.service.update(
            group_leaders=(*(leader for attempt in attempts for leader in attempt.leaders), *rays.leaders),
            ray_address=(driver.address or None) if driver else None,
            private_ray_folder=str(rays.folder) if rays.folder else None,
            ranks=ranks,
            mark=mark,
        )

    def note_stand_by(self, pid: int | None) -> None:
        """Record the pid of the standby."""
        if pid != self.service.stand_by:
            self.service = self.service.update(stand_by=pid)

    def note_incident(self, incident_id: str, fault: Fault) -> None:
        """Count an incident."""
        counts = {**self._metrics.incidents, fault.cause: self._metrics.incidents.get(fault.cause, 0) + 1}
        self._metrics = replace(self._metrics, incidents=counts, last_incident_at=time.time())
        self.service = self.service.update(last_incident=incident_id)

    def note_restart(self) -> None:
        """Count a start after the first one."""
        self.service = self.service.update(restarts=self.service.restarts + 1)

    def make_notice(self) -> Notice:
        """What the listener answers at this moment (called from its thread)."""
        state, note = self.service.state, self.service.note
        return Notice(
            state=state,
            text=f"{state}: {note}" if note else state,
            retry_after_s=None if state in ("draining", "stopping") else self._forecast.retry_after_s(),
            metrics=self.metrics.to_text(),
        )

    def _note_replica(self, attempt: Attempt) -> None:
        """Record who serves, and print what happened to an API server."""
        ranks = self.service.ranks
        replica = ReplicaRecord(
            index=0,
            state=self.service.state,
            nodes=tuple(dict.fromkeys(rank.ip for rank in ranks)),
            ranks=tuple(rank.rank for rank in ranks),
            api_servers=attempt.engine.api_servers,
        )
        if (replica,) != self.service.replicas:
            self.service = self.service.update(replicas=(replica,))
        servers = attempt.engine.last(ApiServers)
        if servers is not None and servers is not self._printed:
            self._printed = servers
            if servers.note:
                console.say(f"warning: {servers.note}", style="yellow")

    def update(self, attempt: Attempt, progress: EngineProgress) -> None:
        """Bring the metrics up to date, and send them to the API server once a second for its /metrics."""
        now = time.monotonic()
        pulse = attempt.driver.pulse if attempt.driver else DriverPulse()
        self._metrics = replace(
            self._metrics,
            progress_age_s=progress.age_s(now),
            gpus_present=self._metrics.gpus_present if pulse.gpus is None else pulse.gpus,
            throttled=pulse.throttled,
        )
        if pulse.warnings != self.service.warnings:
            self.service = self.service.update(warnings=pulse.warnings)
            for warning in pulse.warnings:
                console.say(f"warning: {warning}", style="yellow")
        self._note_replica(attempt)
        if now - self._sent_at >= _SEND_EVERY_S and attempt.engine.ready is not None:
            self._sent_at = now
            attempt.engine.send(self.metrics)
