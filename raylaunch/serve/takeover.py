"""What a new `serve` does about services that were started on this machine before."""

from raylaunch.base import console
from raylaunch.engine.rehearsal.plan import ResolvedLaunch
from raylaunch.serve import incident as incidents
from raylaunch.serve.faults import Fault
from raylaunch.serve.service_record import Service, end_leftovers, list_services


def is_served_already(resolved: ResolvedLaunch) -> bool:
    """Whether a service of the same launch runs, which is printed. What a dead supervisor left is ended."""
    running = _find_same(resolved)
    if running is not None:
        where = f"{running.shown_url}, {running.state} (pid {running.supervisor.pid})"
        console.say(f"{running.models[0]} is served already: {where}")
    return running is not None


def _find_same(resolved: ResolvedLaunch) -> Service | None:
    for service in list_services():
        if not service.is_alive():
            left = end_leftovers(service)
            ended = f"processes {', '.join(map(str, left))}" if left else "its record"
            what = f"the supervisor (pid {service.supervisor.pid}) of port {service.port} was killed"
            console.say(f"{what}; ended what it left: {ended}")
            incident = incidents.begin(service, Fault("supervisor", what), 0)
            incident.note(f"a new serve ended what it left: {ended}").close("stopped")
        elif service.fingerprint == resolved.launch.fingerprint() and bool(service.rehearsal) == resolved.is_rehearsal:
            return service
    return None
