"""`raylaunch serve`: the light process that owns the port, the reservation and the serving child.

It imports no PyTorch and no vLLM, starts in well under a second, and ends everything it started however it ends itself.
"""

import os
import signal
import socket
import time
from dataclasses import asdict
from types import FrameType
from typing import NoReturn

from raylaunch import config, output, paths, placement, readiness
from raylaunch.child import EngineChild
from raylaunch.config import LaunchConfig
from raylaunch.driver import Driver
from raylaunch.errors import EngineError, PortTakenError
from raylaunch.processes import ProcessId
from raylaunch.rehearsal import plan
from raylaunch.service import Service, end_leftovers, folder_of, list_services
from raylaunch.weights.fetch import fetch_model

_STAGE_TIMEOUT_S = 7200.0
"""Longest start-up: a 400 GB model from a slow disk."""


class StopRequested(BaseException):
    """SIGINT or SIGTERM arrived; raised in the main thread wherever it is."""


def serve(launch: LaunchConfig, *, rehearse: bool = False) -> None:
    """Serve `launch` until asked to stop; returns when all of it is gone.

    Args:
        rehearse: run the same layout on this machine with a stand-in model on logical GPUs.

    Raises:
        RaylaunchError: it did not come up, or died; nothing of it is left.
    """
    if (running := _find_same(launch, rehearse=rehearse)) is not None:
        output.say(
            f"{running.models[0]} is served already: {running.url}, {running.state} (pid {running.supervisor.pid})"
        )
        return
    supervisor = Supervisor(launch, rehearse=rehearse)
    supervisor.take_signals()
    try:
        supervisor.start()
        supervisor.watch()
    except (StopRequested, SystemExit):  # the latter from Ray's own handler, for the moment that it has SIGTERM
        output.say("asked to stop")
    finally:
        supervisor.stop()


def _find_same(launch: LaunchConfig, *, rehearse: bool) -> Service | None:
    """A living service of the same launch. Leftovers of a dead supervisor are ended on the way."""
    for service in list_services():
        if not service.is_alive():
            left = end_leftovers(service)
            output.say(
                f"ended what a killed supervisor (pid {service.supervisor.pid}) left on port {service.port}: "
                + (f"processes {', '.join(map(str, left))}" if left else "its record")
            )
        elif service.fingerprint == launch.fingerprint() and bool(service.rehearsal) == rehearse:
            return service
    return None


class Supervisor:
    """One service, from its port to its end."""

    def __init__(self, launch: LaunchConfig, *, rehearse: bool) -> None:
        self.fingerprint = launch.fingerprint()
        self.rehearse = rehearse
        self.standin = plan.choose_standin(launch, rehearse=rehearse)
        self.launch, self.real_shape = launch, True
        self.env_vars = plan.make_environment(self.standin, launch.world_size)
        self.driver: Driver | None = None
        self.child: EngineChild | None = None
        self.service: Service | None = None
        self.listening: socket.socket | None = None
        self.stopping = False
        self.began = time.monotonic()
        self.fetch_s = 0.0

    def take_signals(self) -> None:
        """Handle what asks for an end: Ctrl-C, `raylaunch stop`, a closed terminal (unless nohup has it ignored)."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self.on_signal)

    def on_signal(self, number: int, _frame: FrameType | None) -> None:
        """First signal: stop whatever is going on. Another one while stopping: kill what is left, at once."""
        if not self.stopping:
            self.stopping = True
            raise StopRequested(signal.Signals(number).name)
        if self.child is not None:
            self.child.process.wait_or_kill(0.0)

    def start(self) -> None:
        """Bring the service up to its first completion."""
        self.listening = bind(self.launch.host, self.launch.port)
        self.service = self._register()
        self.child = EngineChild.start(self.service.folder / "engine.log", os.environ | self.env_vars, self.listening)
        self._save_processes()
        began = time.monotonic()
        self.launch = self._find_weights()
        self.fetch_s = time.monotonic() - began
        threads = plan.bind_threads(self.standin, self.launch.world_size)
        self.driver = Driver(self.launch, self.standin, {**self.env_vars, **threads})
        self.driver.join()
        self.take_signals()  # again: ray.init puts handlers of its own in their place (Ray 2.60)
        self._save_processes()
        found = self.driver.confirm_gpus()
        self.driver.check(found)
        reservation = self.driver.place(found)
        self._order_engine(self.driver, reservation)
        self._become_ready()

    def _register(self) -> Service:
        folder = paths.make_private(folder_of(self.launch.port))
        (folder / "engine.log").unlink(missing_ok=True)
        identity = ProcessId.of(os.getpid())
        assert identity is not None
        return Service(
            port=self.launch.port,
            host=self.launch.host,
            models=self.launch.served_model_names,
            fingerprint=self.fingerprint,
            supervisor=identity,
            started_at=time.time(),
            launch_file=str(self.launch.path) if self.launch.path else None,
            rehearsal=self.standin if self.rehearse else None,
            needs_api_key=bool(self.launch.api_keys),
            tls=bool(self.launch.server.get("ssl_certfile")),
        ).save()

    def _save_processes(self) -> None:
        """Write down what would have to be ended, should this process be killed."""
        assert self.service is not None
        private = self.driver.private if self.driver else None
        leaders = [self.child.process.identity] if self.child else []
        leaders += [node.identity for node in private.nodes] if private else []
        self.service = self.service.update(
            group_leaders=tuple(leaders),
            ray_address=self.driver.address if self.driver else None,
            private_ray_folder=str(private.folder) if private else None,
        )

    def _find_weights(self) -> LaunchConfig:
        """See to the model's folder where that is ours to do, and check its shape."""
        if self.rehearse:
            assert self.standin is not None
            launch, self.real_shape = plan.make_rehearsal(self.launch, self.standin)
            return launch
        if self.launch.model.path is None:
            fetch_model(self.launch.model.repo, self.launch.model.revision, self.launch.model_folder, report=output.say)
            config.check_model_at_hand(self.launch)
        return self.launch

    def _order_engine(self, driver: Driver, reservation: placement.Reservation) -> None:
        assert self.child is not None
        assert self.service is not None
        assert self.listening is not None
        self.service = self.service.update(
            ranks=tuple(
                {"rank": p.rank, "tp_rank": p.tp_rank, "pp_rank": p.pp_rank, "ip": p.node.ip, "gpu": p.gpu}
                | {"node": p.node.node_id}
                for p in reservation.places
            )
        )
        order = {
            "launch": self.launch.to_json(),
            "reservation": reservation.group_id,
            "ray_address": driver.address,
            "env_vars": dict(driver.env_vars),
            "socket_fd": self.listening.fileno(),
        }
        self.child.give_order(order)
        output.say(f"starting {self.launch.world_size} vLLM worker(s); log: {self.child.log}")
        if not self.child.wait_for("engine", _STAGE_TIMEOUT_S):
            raise EngineError(f"the engine did not come up within {_STAGE_TIMEOUT_S:.0f} s", log=self.child.log)

    def _become_ready(self) -> None:
        assert self.child is not None
        assert self.service is not None
        assert self.driver is not None
        launch, events = self.launch, self.child.events
        key = launch.api_keys[0] if launch.api_keys else None
        url = self.service.url
        try:
            first_s = readiness.complete_once(url, launch.served_model_names[0], key, self.child.is_alive)
        except EngineError as error:
            raise error if self.child.is_alive() else self.child.explain_death() from error
        load_s, profile_s = readiness.read_engine_times(self.child.log)
        times = readiness.StartupTimes(
            join_s=self.driver.seconds["join"] + self.driver.seconds["wait"],
            check_s=self.driver.seconds["check"],
            import_s=events["imported"]["at"] - self.child.started_at,
            fetch_s=self.fetch_s,
            workers_s=events["engine"]["at"] - events["starting"]["at"] - (load_s or 0.0) - (profile_s or 0.0),
            load_s=load_s,
            profile_s=profile_s,
            first_completion_s=first_s,
            total_s=time.monotonic() - self.began,
        )
        facts = {key: value for key, value in events["engine"].items() if key != "at"} | {"startup": asdict(times)}
        self.service = self.service.update(state="ready", ready_at=time.time(), facts=facts)
        self._announce(url, times)

    def _announce(self, url: str, times: readiness.StartupTimes) -> None:
        assert self.service is not None
        model = self.launch.served_model_names[0]
        output.say(times.to_line())
        output.say(readiness.describe_kv_cache(self.service.facts))
        output.say(f"serving {model} at {url}/v1", style="bold green")
        if self.rehearse and self.standin:
            proved, not_proved = plan.describe_proof(self.launch, self.standin, real_shape=self.real_shape)
            output.say("this rehearsal proved: " + "; ".join(proved))
            output.say("it did not prove: " + "; ".join(not_proved))
        output.say("try it:")
        output.say("  " + readiness.make_curl(url, model, needs_key=bool(self.launch.api_keys)))
        output.say("Ctrl-C or `raylaunch stop` ends it")

    def watch(self) -> NoReturn:
        """Follow the child until it dies (EngineError) or a signal comes (StopRequested)."""
        assert self.child is not None
        while self.child.is_alive():
            time.sleep(0.5)
        raise self.child.explain_death()

    def stop(self) -> None:
        """End everything this supervisor started; safe to call at any point of a start-up."""
        self.stopping = True
        if self.service is not None:
            self.service = self.service.update(state="stopping")
        if self.child is not None:
            self.child.stop()
        if self.driver is not None:
            self.driver.release()
        if self.listening is not None:
            self.listening.close()
        if self.service is not None:
            self.service.forget()
            output.say("stopped: engine, workers and port are gone")


def bind(host: str, port: int) -> socket.socket:
    """Bind the address to serve on, so that nobody else takes it during the start-up.

    Raises:
        PortTakenError: somebody has it, or it is no address of this machine.
    """
    config.check_port_free(host, port)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise PortTakenError(
            f"{host}:{port}: {error.strerror}", fix="choose another with --set server.port=8081"
        ) from error
    return listening
