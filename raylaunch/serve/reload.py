"""Another launch in the place of the one that is served: checked while the old engine serves, and only then swapped."""

from dataclasses import dataclass

from raylaunch.base.errors import RaylaunchError
from raylaunch.config.launch import LaunchConfig
from raylaunch.engine.rehearsal import plan
from raylaunch.engine.rehearsal.plan import ResolvedLaunch
from raylaunch.serve.control_socket import Request
from raylaunch.serve.driver_process import DriverProcess
from raylaunch.serve.faults import Trouble
from raylaunch.serve.listener import make_tls
from raylaunch.serve.messages import CheckLaunch, LaunchChecked


@dataclass
class Swap:
    """A launch that is asked for, and how far it is."""

    request: Request
    resolved: ResolvedLaunch
    old: ResolvedLaunch
    """To go back to, should the new one not come up."""
    accepted: bool = False
    """Checked; the old engine may go."""
    _asked: bool = False

    @classmethod
    def take(cls, request: Request, old: ResolvedLaunch, *, ready: bool) -> "Swap | None":
        """Begin; None where it is refused at once."""
        if not ready:
            request.refuse("the service is not ready", "`raylaunch status` says why; `raylaunch stop` ends it")
            return None
        launch = LaunchConfig.from_json(request.launch)
        if (launch.host, launch.port) != (old.launch.host, old.launch.port):
            request.refuse(
                f"the new launch has the address {launch.host}:{launch.port}, the service has {old.launch.host}:"
                f"{old.launch.port}",
                "a restart cannot change the address: `raylaunch stop`, then `raylaunch serve`",
            )
            return None
        try:
            resolved = plan.resolve(launch, rehearse=old.is_rehearsal)
            make_tls(launch.server)
        except RaylaunchError as error:
            request.refuse(f"{error.what}; the old engine serves on", error.fix)
            return None
        return cls(request, resolved, old)

    def settle(self, driver: DriverProcess) -> bool:
        """Go on with the check; whether the swap is over, being refused."""
        if not self._asked:
            driver.forget(LaunchChecked)
            driver.send(CheckLaunch(self.resolved.launch))
            self._asked = True
            self.request.answer(say="checking the launch on every node")
        elif (checked := driver.last(LaunchChecked)) is not None:
            if checked.what:
                self.request.refuse(f"{checked.what}; the old engine serves on", checked.fix)
                return True
            self.request.answer(say="checked; running requests finish, then the engine is swapped")
            self.accepted = True
        return False

    def succeed(self, url: str) -> None:
        """The new launch is served."""
        self.request.answer(done=f"{self.resolved.launch.served_model_names[0]} is served at {url}/v1")
        self.request.close()

    def fall_back(self, trouble: Trouble) -> ResolvedLaunch:
        """The new launch did not come up, or the old engine failed before its end: the old one, to be served again."""
        if not self.accepted:
            what = f"the engine failed meanwhile: {trouble.what}; it is started again as it was"
            self.request.refuse(what, trouble.fix)
            return self.old
        self.request.refuse(
            f"the new launch did not come up: {trouble.what}; the old one is started again", trouble.fix
        )
        return self.old
