"""`raylaunch serve`: the supervisor, which owns the port and keeps engines behind it (serve/__init__ draws the tree).

It imports no Ray, PyTorch or vLLM, starts in less than a second, and ends everything it started. Each engine is a
Replica in a thread of its own; this module has the service's begin and end, its signals, and the change to another
launch, replica by replica.
"""

import signal
from types import FrameType

from raylaunch.base import console, processes
from raylaunch.config.launch import LaunchConfig
from raylaunch.engine.rehearsal import plan
from raylaunch.engine.rehearsal.plan import ResolvedLaunch
from raylaunch.serve.attempts import check_api_servers
from raylaunch.serve.control_socket import ControlSocket
from raylaunch.serve.front import Front
from raylaunch.serve.readiness import check_own_request
from raylaunch.serve.reload import Reload
from raylaunch.serve.replica import Replica
from raylaunch.serve.takeover import is_served_already

_LOOK_EVERY_S = 0.1
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def serve(launch: LaunchConfig, *, rehearse: bool = False) -> None:
    """Serve `launch` until a signal; returns when all its processes have ended.

    Args:
        rehearse: run the same layout on this machine with a stand-in model on logical GPUs.

    Raises:
        RaylaunchError: it did not come up, or failed repeatedly for one cause; all its processes have ended.
    """
    resolved = plan.resolve(launch, rehearse=rehearse)
    check_api_servers(resolved)
    if is_served_already(resolved):
        return
    processes.raise_file_limit()
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # until `stop` can end what was started
    supervisor = Supervisor(resolved)
    try:
        supervisor.handle_signals()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        supervisor.run()
    finally:
        supervisor.stop()


class Supervisor:
    """One service, from binding its port to its end."""

    def __init__(self, resolved: ResolvedLaunch) -> None:
        self.resolved = resolved
        """What is served, or is served again once its nodes are back; replaced by a reload."""
        self.front = Front(resolved)
        folder = self.front.published.service.folder
        self.control = ControlSocket(folder)
        self.replicas = [Replica(index, resolved, self.front, folder) for index in range(resolved.launch.replicas)]
        self.reload: Reload | None = None
        self._to_change: list[Replica] = []
        """Replicas whose turn is still to come, the current one first."""

    def handle_signals(self) -> None:
        """Stop on Ctrl-C, `raylaunch stop` and a closed terminal (unless nohup ignores that)."""
        for number in _SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self.on_signal)

    def on_signal(self, _number: int, _frame: FrameType | None) -> None:
        """Stop at the first signal; end the grace period at another one."""
        if self.front.stopping.is_set():
            self.front.forced.set()
        self.front.stopping.set()

    def run(self) -> None:
        """Keep the replicas serving, until a signal or until one of them gives up.

        Raises:
            RaylaunchError: why it gave up.
        """
        check_own_request(self.front.published.service.url, self.resolved.launch)
        for replica in self.replicas:
            replica.start()
        while not self.front.stopping.wait(_LOOK_EVERY_S):
            for replica in self.replicas:
                if replica.error is not None:
                    raise replica.error
            self._follow_reload()
        console.say("asked to stop")

    def _follow_reload(self) -> None:
        """Begin a change of the launch that is asked for, and give it to one replica after the other."""
        if self.reload is None:
            if not self.control.requests.empty():
                self._begin_reload()
            elif self.replicas[0].is_ready and self.replicas[0].is_due_back:  # fallbacks are for one replica
                self._change(Reload.back(self.replicas[0].layouts))
            return
        if self._to_change and self._to_change[0].reload is not None:
            return
        if not self.reload.is_proven:  # refused, or the first replica did not come up with it
            self.reload = None
            return
        self.resolved = self.reload.resolved
        del self._to_change[0]
        if self._to_change:
            self._to_change[0].reload = self.reload
        else:
            self.reload.succeed(self.front.published.service.url)
            self.reload = None

    def _begin_reload(self) -> None:
        ready = [replica for replica in self.replicas if replica.is_ready]
        old = ready[0].layouts.current if ready else self.resolved
        if reload := Reload.begin(self.control.requests.get(), old, ready=bool(ready)):
            self._change(reload)

    def _change(self, reload: Reload) -> None:
        """Give a change to the replicas: those that serve first."""
        self.reload = reload
        self._to_change = sorted(self.replicas, key=lambda replica: not replica.is_ready)
        self._to_change[0].reload = reload

    def stop(self) -> None:
        """Drain, and end everything that was started; works at any point of a start-up."""
        for replica in self.replicas:
            if replica.is_ready and not self.front.forced.is_set():
                replica.state.set_state("draining", "stopping: running requests finish, new ones are refused")
        self.front.stop()
        for replica in self.replicas:
            replica.join()
        self.control.close()
        self.front.close()
        console.say("stopped: engine, workers and port are gone")
