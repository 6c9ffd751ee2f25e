"""The record of each service on this machine, so that `status`, `stop` and a second `serve` find it without Ray.

It is `~/.raylaunch/services/<port>/service.json` (0600), and lists the processes of the service with their start times.
If the supervisor is dead, the next `serve` or `stop` ends the processes that it left.
"""

import contextlib
import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from pydantic import TypeAdapter

from raylaunch.base import paths
from raylaunch.base.errors import ServiceError
from raylaunch.base.paths import write_quietly
from raylaunch.base.ports import ALL_INTERFACES
from raylaunch.base.processes import ProcessId, kill_group, kill_marked, wait_until
from raylaunch.base.viewpoint import Viewpoint
from raylaunch.engine import metrics_folder
from raylaunch.engine.messages import EngineReady
from raylaunch.serve.messages import PlacedRank
from raylaunch.serve.readiness import StartupTimes

_RECORD = "service.json"


@dataclass(frozen=True)
class ReplicaRecord:
    """An engine of the service, and who serves for it."""

    index: int
    state: str
    """One of service_metrics.STATES."""
    note: str = ""
    """What is happening, while it is not ready."""
    nodes: tuple[str, ...] = ()
    """Addresses of the nodes that carry its ranks."""
    ranks: tuple[int, ...] = ()
    api_servers: tuple[int, ...] = ()
    """Pids of the processes that accept connections for it."""
    ray_address: str | None = None


@dataclass(frozen=True)
class Service:
    """A service that `raylaunch serve` started on this machine."""

    port: int
    host: str
    models: tuple[str, ...]
    """The model names it serves."""
    fingerprint: str
    """Hash of the launch."""
    supervisor: ProcessId
    started_at: float
    """Wall clock, seconds since 1970."""
    launch_file: str | None = None
    model_folders: tuple[str, ...] = ()
    """Folders that it loads: the model's, and those of what was fetched with it."""
    rehearsal: str | None = None
    """The stand-in platform ("cpu" or "gpu"), if any."""
    state: str = "starting"
    """One of service_metrics.STATES."""
    state_since: float = 0.0
    """Wall clock of the state's beginning; 0 in a record of an older raylaunch."""
    note: str = ""
    """What is happening, while it is not ready."""
    restarts: int = 0
    last_incident: str | None = None
    """Its id (serve.incident)."""
    layout: int = 0
    """0: the launch's own one is served; else the entry of fallback.layouts, from 1."""
    degraded: str = ""
    """What is served instead of the launch's own layout, and why; "" where that is served."""
    warnings: tuple[str, ...] = ()
    """Problems of nodes that still serve: memory, heat."""
    stand_by: int | None = None
    """Pid of the standby, once its imports are done."""
    mark: str = ""
    """RAYLAUNCH_MARK in the environment of its processes."""
    ready_at: float | None = None
    ray_address: str | None = None
    private_ray_folders: tuple[str, ...] = ()
    group_leaders: tuple[ProcessId, ...] = ()
    """Leaders of its process groups: the API server and the nodes of a private Ray."""
    ranks: tuple[PlacedRank, ...] = ()
    replicas: tuple[ReplicaRecord, ...] = ()
    needs_api_key: bool = False
    tls: bool = False
    """Whether it speaks HTTPS."""
    client_cert: tuple[Path, Path | None] | None = None
    """Certificate and key that raylaunch shows it, where it requires one."""
    engine: EngineReady | None = None
    startup: StartupTimes | None = None

    @property
    def folder(self) -> Path:
        """The folder of its record and logs."""
        return folder_of(self.port)

    @property
    def url(self) -> str:
        """Its URL for clients on this machine."""
        return make_url(self.host, self.port, tls=self.tls)

    @property
    def shown_url(self) -> str:
        """Its URL for the reader of this process's messages, who may be at another machine."""
        view = Viewpoint.of_this_process()
        host = view.head if view.is_remote and self.host in ALL_INTERFACES else self.host
        return make_url(host, self.port, tls=self.tls)

    def is_alive(self) -> bool:
        """Whether its supervisor runs."""
        return self.supervisor.is_alive()

    def save(self) -> Self:
        """Write the record atomically, readable by its owner only; a full disk does not end the service."""
        write_quietly(self.folder / _RECORD, json.dumps(asdict(self), ensure_ascii=False, indent=1, default=str))
        return self

    def update(self, **changes: Any) -> Self:
        """The record with `changes`, saved."""
        return replace(self, **changes).save()

    def forget(self) -> None:
        """Remove the record; logs stay."""
        (self.folder / _RECORD).unlink(missing_ok=True)


def folder_of(port: int) -> Path:
    """The folder of the service on `port`."""
    return paths.home() / "services" / str(port)


def make_url(host: str, port: int, *, tls: bool = False) -> str:
    """The address a client on this machine uses for a server bound to `host`."""
    reachable = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    bracketed = f"[{reachable}]" if ":" in reachable else reachable
    return f"{'https' if tls else 'http'}://{bracketed}:{port}"


def list_services() -> list[Service]:
    """All recorded services, running or dead, by port. Unreadable records are skipped."""
    adapter = TypeAdapter(Service)
    found = []
    for path in (paths.home() / "services").glob(f"*/{_RECORD}"):
        try:
            found.append(adapter.validate_json(path.read_bytes()))
        except (OSError, ValueError):
            continue
    return sorted(found, key=lambda service: service.port)


def find_service(port: int | None = None) -> Service:
    """The one running service, or the one on `port`.

    Raises:
        ServiceError: none runs, or several do and `port` is None.
    """
    running = [service for service in list_services() if service.is_alive() and port in (None, service.port)]
    if not running:
        view = Viewpoint.of_this_process()
        raise ServiceError(
            f"nothing serves on {view.place}" + (f" on port {port}" if port is not None else ""),
            fix=_advise_start(view),
        )
    if len(running) > 1:
        ports = ", ".join(str(service.port) for service in running)
        place = Viewpoint.of_this_process().place
        raise ServiceError(f"several services run on {place}, on ports {ports}", fix="choose one with --port")
    return running[0]


def _advise_start(view: Viewpoint) -> str:
    """The next command where nothing serves; on a cluster that is not completely up it is `up`."""
    if view.is_remote:
        from raylaunch.cluster import ray_session

        joined = ray_session.count_nodes()
        if joined < view.hosts:
            return f"{joined} of {view.hosts} hosts have joined Ray: continue with `{view.up_command}`"
    return f"start it with `{view.command('serve', 'LAUNCH.yaml')}`"


def end_leftovers(service: Service) -> list[int]:
    """End the processes of a service whose supervisor is dead, and remove its record.

    Only processes with the recorded start time are ended: a pid may have been reused.

    Returns:
        The pids that were still alive.
    """
    left = [leader.pid for leader in service.group_leaders if leader.is_alive()]
    for pid in left:
        with contextlib.suppress(ProcessLookupError):  # ended by the kernel's signal that its supervisor died
            os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not any(leader.is_alive() for leader in service.group_leaders), 10.0)
    for pid in left:
        kill_group(pid)
    if service.mark:
        # All its starts: a supervisor that was killed while it ended one engine had recorded the next one's mark.
        marks = service.mark.rpartition("-")[0] + "-*"
        left += kill_marked(marks)
        metrics_folder.remove(marks)
    for folder in service.private_ray_folders:
        shutil.rmtree(folder, ignore_errors=True)
    service.forget()
    return left


def stop_service(service: Service, *, timeout_s: float, report: Callable[[str], None]) -> None:
    """Stop a running service, and wait until all its processes have ended.

    Args:
        timeout_s: longest wait in seconds.
        report: prints progress.

    Raises:
        ServiceError: it still runs after `timeout_s`.
    """
    report(f"stopping {service.models[0]} on port {service.port} (pid {service.supervisor.pid})")
    try:
        os.kill(service.supervisor.pid, signal.SIGTERM)
    except ProcessLookupError:
        end_leftovers(service)
        return
    except PermissionError as error:
        raise ServiceError(
            f"the service on port {service.port} belongs to another user (pid {service.supervisor.pid})",
            fix=f"sudo kill {service.supervisor.pid}",
        ) from error
    if not wait_until(lambda: not service.is_alive(), timeout_s):
        raise ServiceError(
            f"the service on port {service.port} (pid {service.supervisor.pid}) still runs after {timeout_s:.0f} s",
            fix=f"`{Viewpoint.of_this_process().command('stop', f'--port={service.port}')}` again ends it at once",
        )
    end_leftovers(service)
