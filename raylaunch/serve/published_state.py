"""What the outside is told of a service: its record for `raylaunch status`, the door's notice, and the figures."""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict

from raylaunch.base import console, metric_families, paths
from raylaunch.base.processes import ProcessId
from raylaunch.config.launch import LaunchConfig
from raylaunch.serve.attempt import Attempt
from raylaunch.serve.faults import Progress, Trouble
from raylaunch.serve.listener import Notice
from raylaunch.serve.metrics import Figures
from raylaunch.serve.private_ray import Rays
from raylaunch.serve.readiness import StartupTimes
from raylaunch.serve.service_record import Service, folder_of

_FIRST_GUESS_S = 30.0
"""How long a start takes, before one has been seen."""
_TELL_EVERY_S = 1.0
_MOST_CHARS = 3500
"""An order to the serving child is 4 KiB at most; a long list of throttled GPUs is cut."""


class Board:
    """One service's face. Written by the supervisor's main thread; the door's thread reads."""

    def __init__(self, launch: LaunchConfig, *, rehearsal: str | None) -> None:
        self.figures = Figures(gpus_expected=launch.world_size)
        self._since = time.monotonic()
        self._start_s = _FIRST_GUESS_S
        self._told_at = 0.0
        self.carried: tuple[str, ...] = ()
        """Addresses of the nodes that carry the engine, or carried the one before."""
        identity = ProcessId.of(os.getpid())
        assert identity is not None
        paths.make_private(folder_of(launch.port))
        self.service = Service(
            port=launch.port,
            host=launch.host,
            models=launch.served_model_names,
            fingerprint=launch.fingerprint(),
            supervisor=identity,
            started_at=time.time(),
            launch_file=str(launch.path) if launch.path else None,
            rehearsal=rehearsal,
            needs_api_key=bool(launch.api_keys),
            tls=bool(launch.server.get("ssl_certfile")),
        ).save()

    def take_launch(self, launch: LaunchConfig) -> None:
        """Another launch is served from now on, at the same address."""
        self.figures.gpus_expected = launch.world_size
        self.service = self.service.update(
            models=launch.served_model_names,
            fingerprint=launch.fingerprint(),
            launch_file=str(launch.path) if launch.path else None,
            needs_api_key=bool(launch.api_keys),
            tls=bool(launch.server.get("ssl_certfile")),
        )

    def set_state(self, state: str, note: str = "") -> None:
        """Tell what the service is doing; a new state starts the clock that Retry-After goes by."""
        if state != self.figures.state:
            self._since = time.monotonic()
        self.figures.state = state
        self.service = self.service.update(state=state, note=note)

    def set_note(self, note: str) -> None:
        """Tell what is being waited for."""
        if note != self.service.note:
            self.service = self.service.update(note=note)

    def set_ready(self, attempt: Attempt, times: StartupTimes) -> None:
        """An engine serves."""
        self._start_s = time.monotonic() - self._since
        self.figures.ready_at = time.time()
        told = attempt.engine.events["engine"]
        facts = {key: value for key, value in told.items() if key != "at"} | {"startup": asdict(times)}
        pids = attempt.seen.get("pids", {})
        ranks = tuple(rank | {"pid": pids.get(str(rank["rank"]))} for rank in self.service.ranks)
        self.service = self.service.update(ready_at=self.figures.ready_at, facts=facts, ranks=ranks)
        self.set_state("ready")

    @property
    def state_s(self) -> float:
        """For how long the state has been what it is."""
        return time.monotonic() - self._since

    def note_processes(self, attempts: Sequence[Attempt], rays: Rays, mark: str) -> None:
        """Write down what would have to be ended, should this process be killed."""
        last = attempts[-1] if attempts else None
        driver = last.driver if last else None
        ranks = tuple(driver.events["placed"]["ranks"]) if driver and "placed" in driver.events else ()
        self.carried = tuple(dict.fromkeys(rank["ip"] for rank in ranks)) or self.carried
        self.service = self.service.update(
            group_leaders=(*(leader for attempt in attempts for leader in attempt.leaders), *rays.leaders),
            ray_address=(driver.address or None) if driver else None,
            private_ray_folder=str(rays.folder) if rays.folder else None,
            ranks=ranks,
            mark=mark,
        )

    def note_stand_by(self, pid: int | None) -> None:
        """Tell which serving child stands by."""
        if pid != self.service.stand_by:
            self.service = self.service.update(stand_by=pid)

    def note_incident(self, incident_id: str, trouble: Trouble) -> None:
        """Count an incident."""
        self.figures.incidents[trouble.cause] += 1
        self.figures.last_incident_at = time.time()
        self.service = self.service.update(last_incident=incident_id)

    def note_restart(self) -> None:
        """Count a start after the first one."""
        self.figures.restarts += 1
        self.service = self.service.update(restarts=self.figures.restarts)

    def look(self) -> Notice:
        """What the door tells whoever comes (from the door's thread)."""
        state, note = self.figures.state, self.service.note
        left_s = self._start_s - (time.monotonic() - self._since)
        return Notice(
            state=state,
            text=f"{state}: {note}" if note else state,
            retry_after_s=max(1, min(60, round(left_s))),
            metrics=metric_families.to_text(self.figures.to_samples()),
        )

    def tell_engine(self, attempt: Attempt, progress: Progress) -> None:
        """Bring the figures up to date, and hand them to the serving child once a second for its /metrics."""
        now = time.monotonic()
        self.figures.progress_age_s = progress.age_s(now)
        seen = attempt.seen
        self.figures.gpus_present = int(seen.get("gpus", self.figures.gpus_present))
        self.figures.throttled = [tuple(entry) for entry in seen.get("throttled", ())]
        if (warnings := tuple(seen.get("warnings", ()))) != self.service.warnings:
            self.service = self.service.update(warnings=warnings)
            for warning in warnings:
                console.say(f"warning: {warning}", style="yellow")
        if now - self._told_at >= _TELL_EVERY_S and "engine" in attempt.engine.events:
            self._told_at = now
            samples = self.figures.to_samples()
            while len(json.dumps(samples)) > _MOST_CHARS:
                samples.pop()
            attempt.engine.tell({"do": "figures", "samples": samples})
