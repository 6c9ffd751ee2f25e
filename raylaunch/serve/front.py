"""The front of a service, which its replicas share: the listening socket, who accepts on it, and what is published."""

import os
import threading

from raylaunch.engine import api_servers, metrics_folder
from raylaunch.engine.load_table import LoadTable
from raylaunch.engine.rehearsal.plan import ResolvedLaunch
from raylaunch.serve.listener import Listener, listen, make_tls
from raylaunch.serve.published_state import PublishedState
from raylaunch.serve.unready_answer import AnswerRules


class Front:
    """The listener accepts while no replica does. For the threads of the replicas and the supervisor's own."""

    def __init__(self, resolved: ResolvedLaunch) -> None:
        """Bind the address, and answer that nothing is ready yet.

        Raises:
            PortTakenError, LaunchFileError: the address or the certificate cannot be used.
        """
        launch = resolved.launch
        tls = make_tls(launch.server)  # before the port is bound: it may raise
        self.listening = listen(launch.host, launch.port)
        self.published = PublishedState(launch, rehearsal=resolved.standin if resolved.is_rehearsal else None)
        rules = AnswerRules.of_launch(launch)
        self.listener = Listener(self.listening, self.published.make_notice, tls=tls, rules=rules)
        self.listener.resume()
        self.loads = LoadTable.create(launch.replicas * api_servers.MOST)
        self.stopping, self.forced = threading.Event(), threading.Event()
        """Set when the service is to stop; when the grace period is over."""
        self.was_ready = False
        """Whether any replica has been."""
        self._lock = threading.Lock()
        self._accepting: set[int] = set()

    def enter(self, replica: int) -> None:
        """A replica accepts."""
        with self._lock:
            self._accepting.add(replica)
            if not self.stopping.is_set():
                self.listener.pause()

    def leave(self, replica: int) -> None:
        """A replica is about to accept no more; the listener accepts if it was the last one."""
        with self._lock:
            self._accepting.discard(replica)
            if not self._accepting:
                self.listener.resume()

    def has_others(self, replica: int) -> bool:
        """Whether another replica accepts."""
        with self._lock:
            return bool(self._accepting - {replica})

    def stop(self) -> None:
        """Have all replicas stop: the listener accepts, and refuses what is new."""
        with self._lock:
            self.stopping.set()
            self.listener.resume()

    def take_launch(self, resolved: ResolvedLaunch) -> None:
        """Answer and publish as the launch that is served from now on says."""
        launch = resolved.launch
        self.listener.change(tls=make_tls(launch.server), rules=AnswerRules.of_launch(launch))
        self.published.take_launch(launch)

    def close(self) -> None:
        """Accept no more; all replicas must have ended."""
        self.listener.close()
        self.listening.close()
        self.loads.close()
        metrics_folder.remove(f"{self.published.service.port}-{os.getpid()}-*")
        self.published.service.forget()
