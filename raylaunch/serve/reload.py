"""Another launch in the place of the running one: checked while the old engine serves, and only then served."""

from dataclasses import dataclass
from typing import Protocol

from raylaunch.base.errors import RaylaunchError
from raylaunch.base.viewpoint import Viewpoint
from raylaunch.engine.rehearsal import plan
from raylaunch.engine.rehearsal.plan import ResolvedLaunch
from raylaunch.serve.attempts import check_api_servers
from raylaunch.serve.control_socket import RestartRequest
from raylaunch.serve.driver_process import DriverProcess
from raylaunch.serve.fallback import Layouts, ReturnRequest
from raylaunch.serve.faults import Fault
from raylaunch.serve.listener import make_tls
from raylaunch.serve.messages import CheckLaunch, LaunchChecked


class Request(Protocol):
    """Who asked for a reload, and gets its outcome."""

    def report(self, text: str) -> None:
        """Report progress."""

    def finish(self, text: str) -> None:
        """Report success."""

    def refuse(self, what: str, fix: str) -> None:
        """Report an error."""


@dataclass
class Reload:
    """A requested launch, and how far its reload is."""

    request: Request
    resolved: ResolvedLaunch
    old: ResolvedLaunch
    """Served again if the new one does not come up."""
    is_proven: bool = False
    """A replica serves with it."""
    is_accepted: bool = False
    """Checked: the old engine may end."""
    _is_sent: bool = False

    @classmethod
    def begin(cls, request: RestartRequest, old: ResolvedLaunch, *, ready: bool) -> "Reload | None":
        """Begin; None where it is refused at once."""
        view = Viewpoint.of_this_process()
        stop = view.command("stop")
        if not ready:
            request.refuse("the service is not ready", f"`{view.command('status')}` shows why; `{stop}` ends it")
            return None
        launch = request.launch
        if (launch.host, launch.port) != (old.launch.host, old.launch.port):
            request.refuse(
                f"the new launch is for {launch.host}:{launch.port}, the service is at {old.launch.host}:"
                f"{old.launch.port}",
                f"a restart cannot change the address: `{stop}`, then `{view.command('serve', 'LAUNCH.yaml')}`",
            )
            return None
        if launch.replicas != old.launch.replicas:
            request.refuse(
                f"the new launch has {launch.replicas} replica(s), the service has {old.launch.replicas}",
                f"a restart cannot change their number: `{stop}`, then `{view.command('serve', 'LAUNCH.yaml')}`",
            )
            return None
        try:
            resolved = plan.resolve(launch, rehearse=old.is_rehearsal)
            make_tls(launch.server)
            check_api_servers(resolved)
        except RaylaunchError as error:
            request.refuse(f"{error.what}; the old engine serves on", error.fix)
            return None
        return cls(request, resolved, old)

    @classmethod
    def back(cls, layouts: Layouts) -> "Reload":
        """Begin the change from a fallback to the launch's own layout."""
        return cls(ReturnRequest(layouts), layouts.own, layouts.current)

    @property
    def is_other_launch(self) -> bool:
        """False where a fallback makes room for the launch's own layout."""
        return self.resolved is not self.old.own

    def check(self, driver: DriverProcess) -> bool:
        """Have the driver process check the launch on every node; returns whether it was refused."""
        if not self._is_sent:
            driver.forget(LaunchChecked)
            fallbacks = tuple(one.launch for one in self.resolved.fallbacks) if self.is_other_launch else ()
            driver.send(CheckLaunch(self.resolved.launch.for_replica(), fallbacks))
            self._is_sent = True
            self.request.report("checking the launch on every node")
        elif (checked := driver.last(LaunchChecked)) is not None:
            if checked.what:
                self.request.refuse(f"{checked.what}; the old engine serves on", checked.fix)
                return True
            self.request.report("checked; running requests finish, then the engine is replaced")
            self.is_accepted = True
        return False

    def note_served(self, url: str) -> None:
        """A replica serves the new launch."""
        self.is_proven = True
        if self.resolved.launch.replicas > 1:
            self.request.report(f"a replica serves it at {url}/v1")

    def succeed(self, url: str) -> None:
        """The new launch is served, by all replicas."""
        self.request.finish(f"{self.resolved.launch.served_model_names[0]} is served at {url}/v1")

    def fall_back(self, fault: Fault) -> ResolvedLaunch:
        """The new launch did not come up, or the old engine failed meanwhile; returns the old launch, to serve it."""
        what = f"the engine failed meanwhile: {fault.what}; it is started again as it was"
        if self.is_accepted:
            what = f"the new launch did not come up: {fault.what}; the old one is started again"
        self.request.refuse(what, fault.fix)
        return self.old
