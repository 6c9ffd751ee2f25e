"""What runs here: one record a service, so that `status`, `stop` and a second `serve` find it without asking Ray.

A record lies in `~/.raylaunch/services/<port>/service.json` (0600). It names the processes of the service with their
start times: a record whose supervisor is gone is a leftover, whose processes are ended by the next `serve` or `stop`.
"""

import contextlib
import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from raylaunch.base import paths
from raylaunch.base.errors import ServiceError
from raylaunch.base.paths import write_quietly
from raylaunch.base.processes import MARK_VARIABLE, ProcessId, kill_group, kill_marked, wait_until

_RECORD = "service.json"


@dataclass(frozen=True)
class Service:
    """A service that `raylaunch serve` started on this machine."""

    port: int
    host: str
    models: tuple[str, ...]
    """Names it answers to."""
    fingerprint: str
    """Of the launch: equal launches have equal ones."""
    supervisor: ProcessId
    started_at: float
    """Wall clock, seconds since 1970."""
    launch_file: str | None = None
    rehearsal: str | None = None
    """Which stand-in, if any."""
    state: str = "starting"
    """One of service_metrics.STATES."""
    note: str = ""
    """What is happening, where it is not ready."""
    restarts: int = 0
    last_incident: str | None = None
    """Its id (keep.incident)."""
    warnings: tuple[str, ...] = ()
    """What is not well with the nodes, though it serves: memory, heat."""
    stand_by: int | None = None
    """The pid of the next serving child, once its imports are done."""
    mark: str = ""
    """RAYLAUNCH_MARK in the environment of its processes."""
    ready_at: float | None = None
    ray_address: str | None = None
    private_ray_folder: str | None = None
    group_leaders: tuple[ProcessId, ...] = ()
    """Processes that lead a process group of ours: the serving child and a private Ray's nodes."""
    ranks: tuple[dict[str, Any], ...] = ()
    """rank, tp_rank, pp_rank, node, ip, gpu of each rank, and its pid there once it is ready."""
    needs_api_key: bool = False
    tls: bool = False
    """Whether it speaks HTTPS."""
    facts: dict[str, Any] = field(default_factory=dict)
    """KV cache tokens and start-up times, once ready."""

    @property
    def folder(self) -> Path:
        """The folder of its record and logs."""
        return folder_of(self.port)

    @property
    def url(self) -> str:
        """Where a client on this machine reaches it."""
        return make_url(self.host, self.port, tls=self.tls)

    def is_alive(self) -> bool:
        """Whether its supervisor runs."""
        return self.supervisor.is_alive()

    def save(self) -> Self:
        """Write the record whole or not at all, readable by its owner only; a full disk does not end the service."""
        write_quietly(self.folder / _RECORD, json.dumps(asdict(self), ensure_ascii=False, indent=1))
        return self

    def update(self, **changes: Any) -> Self:
        """The record with `changes`, saved."""
        return replace(self, **changes).save()

    def forget(self) -> None:
        """Remove the record; logs stay."""
        (self.folder / _RECORD).unlink(missing_ok=True)

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> Self:
        """The record that `save` wrote as JSON."""
        fields = fields | {
            "supervisor": ProcessId(**fields["supervisor"]),
            "group_leaders": tuple(ProcessId(**leader) for leader in fields["group_leaders"]),
            "models": tuple(fields["models"]),
            "ranks": tuple(fields["ranks"]),
            "warnings": tuple(fields["warnings"]),
        }
        return cls(**fields)


def folder_of(port: int) -> Path:
    """The folder of the service on `port`."""
    return paths.home() / "services" / str(port)


def make_url(host: str, port: int, *, tls: bool = False) -> str:
    """The address a client on this machine uses for a server bound to `host`."""
    reachable = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    bracketed = f"[{reachable}]" if ":" in reachable else reachable
    return f"{'https' if tls else 'http'}://{bracketed}:{port}"


def list_services() -> list[Service]:
    """All recorded services, living or left over, by port. A record that cannot be read is left out."""
    found = []
    for path in (paths.home() / "services").glob(f"*/{_RECORD}"):
        try:
            found.append(Service.from_fields(json.loads(path.read_text())))
        except (OSError, ValueError, TypeError, KeyError):
            continue
    return sorted(found, key=lambda service: service.port)


def find_service(port: int | None = None) -> Service:
    """The one living service, or the one on `port`.

    Raises:
        ServiceError: none, or more than one and no port said.
    """
    living = [service for service in list_services() if service.is_alive() and port in (None, service.port)]
    if not living:
        raise ServiceError(
            "nothing serves on this machine" + (f" on port {port}" if port is not None else ""),
            fix="start it with `raylaunch serve LAUNCH.yaml`",
        )
    if len(living) > 1:
        ports = ", ".join(str(service.port) for service in living)
        raise ServiceError(f"several services run here, on ports {ports}", fix="say which one with --port")
    return living[0]


def end_leftovers(service: Service) -> list[int]:
    """End the processes of a service whose supervisor is gone, and forget it.

    Only processes whose start time is the recorded one are touched: a reused pid is somebody else's.

    Returns:
        The pids that were still there.
    """
    left = [leader.pid for leader in service.group_leaders if leader.is_alive()]
    for pid in left:
        with contextlib.suppress(ProcessLookupError):  # gone meanwhile: the kernel told it that its supervisor died
            os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not any(leader.is_alive() for leader in service.group_leaders), 10.0)
    for pid in left:
        kill_group(pid)
    if service.mark:
        # All its starts: a supervisor that is killed while it ends one engine has written down the next one's mark.
        left += kill_marked(MARK_VARIABLE, service.mark.rpartition("-")[0] + "-*")
    if service.private_ray_folder:
        shutil.rmtree(service.private_ray_folder, ignore_errors=True)
    service.forget()
    return left


def stop_service(service: Service, *, timeout_s: float, report: Callable[[str], None]) -> None:
    """Ask a living service to stop and wait until nothing of it is left.

    Args:
        timeout_s: longest wait in seconds.
        report: is told what is waited for.

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
            fix=f"look at {service.folder / 'engine.log'}; a second `raylaunch stop` ends it at once",
        )
    end_leftovers(service)
