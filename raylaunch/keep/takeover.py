"""What a new `serve` does about services that were here before it."""

from raylaunch import output
from raylaunch.config import LaunchConfig
from raylaunch.keep import incident as incidents
from raylaunch.keep.watch import Trouble
from raylaunch.service import Service, end_leftovers, list_services


def find_same(launch: LaunchConfig, *, rehearse: bool) -> Service | None:
    """A living service of the same launch. Leftovers of a dead supervisor are ended on the way."""
    for service in list_services():
        if not service.is_alive():
            left = end_leftovers(service)
            told = f"processes {', '.join(map(str, left))}" if left else "its record"
            what = f"the supervisor (pid {service.supervisor.pid}) of port {service.port} was killed"
            output.say(f"{what}; ended what it left: {told}")
            incident = incidents.begin(service.port, service.models[0], Trouble("supervisor", what), 0)
            incident.note(f"a new serve ended what it left: {told}").close("stopped")
        elif service.fingerprint == launch.fingerprint() and bool(service.rehearsal) == rehearse:
            return service
    return None
