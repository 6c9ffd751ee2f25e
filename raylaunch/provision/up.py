"""`raylaunch up`: start Ray's launcher, follow it, and report its failures.

Ray's own `ray up` returns once the head runs, whatever happens to the workers, and never retries a failed one (Ray
2.60). So the head's reports are followed until every host has joined with every GPU that its driver lists.
"""

import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

from raylaunch.base import console
from raylaunch.base.addresses import find_addresses, resolve
from raylaunch.base.console import ProgressLine
from raylaunch.base.errors import ClusterError
from raylaunch.config.cluster_file import ClusterFile
from raylaunch.provision import artifacts, image, ray_state, ray_up_log
from raylaunch.provision.head_session import HeadReport, HeadSession
from raylaunch.provision.host_shell import HostShell
from raylaunch.provision.image_progress import ImageWatch
from raylaunch.provision.preconditions import ContainerState, HostState, check_hosts, find_cause, inspect_host
from raylaunch.provision.ray_up import Launcher, start_launcher

_STEP_S = 0.25
_BEGIN_S = 60.0
"""Ray's launcher looks for work every 5 s."""


@dataclass
class ClusterUp:
    """One `up` of one cluster."""

    shell: HostShell
    wait_s: float
    archive: Path | None = None
    began: float = field(default_factory=time.monotonic)
    gpus: dict[str, int] = field(default_factory=dict)
    """Host -> GPUs with which it has to join, or the least of them; what it joined with, once it has more."""
    addresses: dict[str, frozenset[str]] = field(default_factory=dict)
    """Host -> addresses by which Ray may know it, besides its own in the cluster file."""
    failures: dict[str, int] = field(default_factory=dict)
    """Host -> how often Ray's launcher has given it up, as far as that was handled here."""
    failed: set[str] = field(default_factory=set)
    """Hosts that failed once in this run."""
    idle_since: dict[str, float] = field(default_factory=dict)
    """Host -> since when Ray's launcher has not worked on it."""

    def __post_init__(self) -> None:
        self.images = ImageWatch(self.shell)

    @property
    def cluster(self) -> ClusterFile:
        """The cluster's file."""
        return self.shell.cluster

    def run(self) -> None:
        """Bring the cluster up, or those hosts of it that are missing.

        Raises:
            ChecksFailedError: hosts are not fit; nothing was changed.
            ClusterError: not every host joined with every GPU.
        """
        states = self.shell.run_on_all(lambda host: inspect_host(self.shell, host))
        self.gpus = {host: state.gpus for host, state in states.items()}
        self.addresses = find_addresses({host: state.addresses for host, state in states.items()})
        with ExitStack() as stack:
            stack.enter_context(self.images.follow())
            head_runs = states[self.cluster.head_ip].container is ContainerState.OURS
            session = HeadSession.open(self.shell) if head_runs else None
            missing = self.list_missing(session.read()) if session else list(self.cluster.hosts)
            if session:
                stack.enter_context(closing(session))
            if not missing:
                artifacts.claim(self.cluster, is_up=True)
                ray_state.publish(self.cluster)
                console.say(f"{self.cluster.cluster_name} is up already: {self.describe()}")
                return
            launcher = None if session else stack.enter_context(start_launcher(self.cluster, "up"))
            check_hosts(self.shell, with_archive=self.archive is not None)
            if self.archive is not None:
                image.load_archive(self.shell, self.archive, missing)
            if session is None:
                assert launcher is not None
                self.clear(states)
                artifacts.claim(self.cluster, is_up=True)
                launcher.begin(with_build=self.archive is None)
                self.follow_head(launcher)
                session = stack.enter_context(closing(HeadSession.start(self.shell)))
            else:
                self.add(missing, session)
            self.wait(session)
        image.compare_images(self.shell)
        ray_state.publish(self.cluster)
        console.say(f"{self.cluster.cluster_name} is up: {self.describe()}", style="bold green")

    def add(self, missing: Sequence[str], session: HeadSession) -> None:
        """Start hosts beside those that have joined, which are not touched.

        Raises:
            ClusterError: the running head does not know a host.
        """
        report = session.read()
        if unknown := [host for host in missing if host not in report.known]:
            raise ClusterError(
                f"{', '.join(unknown)}: added to {self.cluster.shown_path} after the head was started, and its "
                "launcher reads its hosts once (Ray 2.60)",
                fix=f"raylaunch down {self.cluster.shown_path}, then up: this stops what is being served",
            )
        self.failures = {**report.failures}
        joined = [host for host in self.cluster.hosts if host not in missing]
        console.say(f"{', '.join(joined)} stay as they are; adding {', '.join(missing)}")
        self._retry([host for host in missing if report.launcher.get(host) not in ray_up_log.UNDER_WAY], session)

    def describe(self) -> str:
        """Hosts and GPUs: "2 hosts, 16 GPUs: 10.0.0.1 (8), 10.0.0.2 (8)"."""
        each = ", ".join(f"{host} ({count})" for host, count in self.gpus.items())
        return f"{len(self.gpus)} hosts, {sum(self.gpus.values())} GPUs: {each}"

    def list_missing(self, report: HeadReport) -> list[str]:
        """Hosts that have not joined with all their GPUs."""
        return [host for host in self.cluster.hosts if self.count_gpus(host, report) < self.gpus[host]]

    def count_gpus(self, host: str, report: HeadReport) -> int:
        """The GPUs of a host in a report, -1 where it has not joined; Ray knows hosts by number, not by name."""
        if host not in self.addresses:
            self.addresses[host] = resolve([host])[host]
        nodes = {host, *self.addresses[host]} & report.gpus.keys()
        found = max((report.gpus[node] for node in nodes), default=-1)
        self.gpus[host] = max(self.gpus[host], found)
        return found

    def clear(self, states: Mapping[str, HostState]) -> None:
        """Remove what an earlier run left. No Ray head runs, so none of our containers serves.

        Raises:
            ClusterError: a container of the cluster's name was not started by raylaunch.
        """
        name = self.cluster.container_name
        remove = self.shell.runtime.remove.format(container=name)
        if foreign := [host for host, state in states.items() if state.container is ContainerState.FOREIGN]:
            raise ClusterError(
                f"{', '.join(foreign)}: has a container named {name} that `raylaunch up` did not start",
                fix=f"on that host: {remove}; or set another docker.container_name in {self.cluster.shown_path}",
            )
        self._remove_containers([host for host, state in states.items() if state.container is not ContainerState.NONE])
        shutil.rmtree(artifacts.ray_folder_of(self.cluster), ignore_errors=True)
        ray_state.withdraw(self.cluster)

    def _remove_containers(self, hosts: Sequence[str]) -> None:
        if hosts:
            console.say(f"removing the container of an earlier run on {', '.join(hosts)}")
            command = self.shell.runtime.remove.format(container=self.cluster.container_name)
            self.shell.run_on_all(lambda host: self.shell.run(host, command), hosts)

    def follow_head(self, launcher: Launcher) -> None:
        """Follow Ray's launcher while it sets the head up.

        Raises:
            ClusterError: it failed, or took too long.
        """
        head = self.cluster.head_ip
        with console.live_lines() as report:
            while launcher.is_alive():
                stage = ray_up_log.read_stage(launcher.read_log())
                report([self._make_line(head, stage)])
                if time.monotonic() - self.began > self.wait_s:
                    what = f"{head}: the head was not up within {self.wait_s:.0f} s, at: {stage}"
                    raise ClusterError(what, log=launcher.log)
                time.sleep(_STEP_S)
        if launcher.status != 0:
            failure = ray_up_log.read_failure(launcher.read_log(), head)
            raise ClusterError(
                f"{head}: the head could not be set up: {failure.what}",
                fix=failure.fix,
                excerpt=failure.excerpt,
                log=launcher.log,
            )

    def wait(self, session: HeadSession) -> None:
        """Follow the head's reports until every host has joined.

        Raises:
            ClusterError: a host failed twice, is gone, or joined with too few GPUs; or `wait_s` is over.
        """
        with self.shell.watch_reachability() as lost, console.live_lines() as show:
            while missing := self.list_missing(report := session.read()):
                show([self.describe_host(host, report) for host in self.cluster.hosts])
                for host in missing:
                    self.examine(host, report, session)
                    if (message := lost.get(host)) is not None:
                        raise self._make_lost(host, message)
                if time.monotonic() - self.began > self.wait_s:
                    raise ClusterError(
                        f"{', '.join(missing)} did not join within {self.wait_s:.0f} s; "
                        f"Ray has {sum(report.gpus.values())} of {sum(self.gpus.values())} GPUs",
                        fix="wait longer with --wait-s, or run `ray monitor`",
                    )
            show([self.describe_host(host, report) for host in self.cluster.hosts])

    def _make_line(self, host: str, stage: str) -> ProgressLine:
        role, image = "head" if host == self.cluster.head_ip else "worker", self.images.find_stage(host)
        wait = f"{time.monotonic() - self.began:.0f} s of at most {self.wait_s:.0f} s"
        return ProgressLine(host, f"{role}: {image.what or stage}", " | ".join(filter(None, (image.amount, wait))))

    def describe_host(self, host: str, report: HeadReport) -> ProgressLine:
        """One host's line of progress."""
        if (joined := self.count_gpus(host, report)) >= 0:
            stage = f"joined, {joined} of {self.gpus[host]} GPUs"
        else:
            stage = ray_up_log.STAGES.get(report.launcher.get(host, ""), "waiting for the head to start it")
        return self._make_line(host, stage)

    def examine(self, host: str, report: HeadReport, session: HeadSession) -> None:
        """Check whether a missing host can still join; retry it after its first failure.

        Raises:
            ClusterError: it cannot.
        """
        if (joined := self.count_gpus(host, report)) >= 0:
            listing = self.shell.runtime.execute(self.cluster.container_name, ["nvidia-smi", "-L"])
            raise ClusterError(
                f"{host} has {self.gpus[host]} GPUs, but Ray in its container found {joined}",
                fix=f"on that host: {listing}; NVIDIA's container toolkit passes them on (see `raylaunch doctor`)",
            )
        if report.launcher.get(host, "uninitialized") != "uninitialized":
            self.idle_since.pop(host, None)
        elif time.monotonic() - self.idle_since.setdefault(host, time.monotonic()) > _BEGIN_S:
            raise ClusterError(
                f"{host}: Ray's launcher on the head did not start it within {_BEGIN_S:.0f} s",
                fix=f"`raylaunch down {self.cluster.shown_path}`, then up: this stops what is being served",
            )
        if report.failures.get(host, 0) == self.failures.get(host, 0):
            return
        self.failures[host] = report.failures[host]
        failure = find_cause(self.shell, host, session.read_monitor_log())
        if host in self.failed:
            if (message := self.shell.ping(host)) is not None:  # the head's log only has that its command failed
                raise self._make_lost(host, message)
            raise ClusterError(f"{host} failed twice: {failure.what}", fix=failure.fix, excerpt=failure.excerpt)
        console.say(f"{host} failed: {failure.what}; retrying once")
        self.failed.add(host)
        self._retry([host], session)

    def _make_lost(self, host: str, message: str) -> ClusterError:
        return ClusterError(
            f"{host} no longer answers to ssh: {message}",
            fix=f"check that host; `raylaunch up {self.cluster.shown_path}` then adds it to the others",
        )

    def _retry(self, hosts: Sequence[str], session: HeadSession) -> None:
        """Have Ray's launcher start over with hosts; it fails on an ended container that has the name."""
        ended = [host for host in hosts if inspect_host(self.shell, host).container is ContainerState.ENDED]
        self._remove_containers(ended)
        for host in hosts:
            self.idle_since.pop(host, None)
        session.retry(hosts)


def up(cluster: ClusterFile, *, archive: Path | None = None, wait_s: float) -> None:
    """Bring a cluster up; returns when every host has joined with every GPU.

    Args:
        archive: image file for hosts that lack the image.
        wait_s: longest wait in seconds.

    Raises:
        RaylaunchError: it is not completely up; what failed, where, and what to do.
    """
    artifacts.write_kit(cluster)
    ClusterUp(HostShell.of(cluster), wait_s, archive).run()
