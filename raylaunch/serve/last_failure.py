"""What failed last on this machine: the logs of its service, and its last incident."""

from pathlib import Path

from raylaunch.base import paths
from raylaunch.base.errors import ServiceError
from raylaunch.explain.causes import Cause, Place
from raylaunch.explain.signatures import by_key
from raylaunch.serve.incident import Incident, list_incidents
from raylaunch.serve.service_record import list_services


def find_last_logs(port: int | None) -> list[Path]:
    """The logs of the service on this machine, running or ended, and of its last incident.

    Args:
        port: of the service; None takes the one that wrote last.

    Raises:
        ServiceError: there are none.
    """
    logs = [log for log in (paths.home() / "services").glob("*/engine*.log") if port in (None, _read_port(log.parent))]
    logs.sort(key=lambda log: log.stat().st_mtime)
    incidents = [entry for entry in list_incidents() if port in (None, entry.port)]
    if not logs and not incidents:
        where = "on this machine" + (f" on port {port}" if port is not None else "")
        raise ServiceError(f"no service and no incident {where}", fix="name logs: `raylaunch explain LOG...`")
    found = [log for log in logs if log.parent == logs[-1].parent]
    last = incidents[-1].folder / "engine.log" if incidents else None
    running = [entry for entry in list_services() if found and entry.folder == found[0].parent and entry.is_alive()]
    if last is not None and last.exists() and (running or not found):
        found.append(last)  # the log of an engine that ended was moved aside when the next one started
    return found


def _read_port(folder: Path) -> int:
    return int(folder.name) if folder.name.isdigit() else 0


def explain_incident(port: int | None) -> Cause | None:
    """The cause of the last incident, as its supervisor saw it; None where there is none, or its cause has no name.

    Args:
        port: of the service; None takes any.
    """
    last = next((entry for entry in reversed(list_incidents()) if port in (None, entry.port)), None)
    return None if last is None or last.key not in by_key() else _make_cause(last)


def _make_cause(incident: Incident) -> Cause:
    signature = by_key()[incident.key]
    return Cause(
        key=incident.key,
        what=incident.what,
        where=(Place(file=str(incident.folder / "incident.json"), line=1),),
        evidence=(),
        fix=incident.fix,
        weight=signature.weight,
        link=signature.link,
        echoes=0,
    )
