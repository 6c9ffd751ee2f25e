"""Another launch in the place of the one that is served: checked while the old engine serves, and only then swapped."""

from dataclasses import dataclass

from raylaunch.base.errors import RaylaunchError
from raylaunch.config.launch import LaunchConfig
from raylaunch.engine.rehearsal import plan
from raylaunch.serve.control_socket import Request
from raylaunch.serve.driver_process import DriverChild
from raylaunch.serve.faults import Trouble
from raylaunch.serve.listener import make_tls


@dataclass
class Swap:
    """A launch that is asked for, and how far it is."""

    request: Request
    launch: LaunchConfig
    old: LaunchConfig
    """To go back to, should the new one not come up."""
    accepted: bool = False
    """Checked; the old engine may go."""
    _asked: bool = False

    @classmethod
    def take(cls, request: Request, old: LaunchConfig, *, rehearse: bool, ready: bool) -> "Swap | None":
        """Begin; None where it is refused at once."""
        if not ready:
            request.refuse("the service is not ready", "`raylaunch status` says why; `raylaunch stop` ends it")
            return None
        launch = LaunchConfig.from_json(request.launch)
        if (launch.host, launch.port) != (old.host, old.port):
            request.refuse(
                f"server.host and server.port say {launch.host}:{launch.port}, the service is on {old.host}:{old.port}",
                "an address is not swapped: `raylaunch stop`, then `raylaunch serve`",
            )
            return None
        try:
            plan.choose_standin(launch, rehearse=rehearse)
            make_tls(launch.server)
        except RaylaunchError as error:
            request.refuse(f"{error.what}; the old engine serves on", error.fix)
            return None
        return cls(request, launch, old)

    def settle(self, driver: DriverChild) -> bool:
        """Go on with the check; whether the swap is over, being refused."""
        if not self._asked:
            driver.events.pop("checked", None)
            driver.tell({"do": "check", "launch": self.launch.to_json()}, patient=True)
            self._asked = True
            self.request.answer(say="checking the launch on every node")
        elif (checked := driver.events.get("checked")) is not None:
            if checked["what"]:
                self.request.refuse(f"{checked['what']}; the old engine serves on", checked["fix"])
                return True
            self.request.answer(say="checked; running requests finish, then the engine is swapped")
            self.accepted = True
        return False

    def succeed(self, url: str) -> None:
        """The new launch is served."""
        self.request.answer(done=f"{self.launch.served_model_names[0]} is served at {url}/v1")
        self.request.close()

    def fall_back(self, trouble: Trouble) -> LaunchConfig:
        """The new launch did not come up, or the old engine failed before its end: the old one, to be served again."""
        if not self.accepted:
            what = f"the engine failed meanwhile: {trouble.what}; it is started again as it was"
            self.request.refuse(what, trouble.fix)
            return self.old
        self.request.refuse(
            f"the new launch did not come up: {trouble.what}; the old one is started again", trouble.fix
        )
        return self.old
