"""`raylaunch up`: Ray's launcher brings the hosts up; here it is watched, and its failures are told.

Ray's own `ray up` returns once the head runs, whatever becomes of the workers, and never tries a failed one again
(Ray 2.60). So the head's view of its nodes is followed until every host is in with every GPU that its driver tells.
"""

import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

from raylaunch.base import console
from raylaunch.base.errors import ClusterError
from raylaunch.config.cluster_file import ClusterFile
from raylaunch.provision import artifacts, image, ray_up_log
from raylaunch.provision.head_session import HeadView, Hosts
from raylaunch.provision.host_shell import HostShell
from raylaunch.provision.preconditions import HostState, examine, find_cause
from raylaunch.provision.ray_up import Launcher, start_launcher

LABEL = "raylaunch.cluster"
"""Docker label of our containers; its value is the cluster's name."""
_STEP_S = 0.25
_BEGIN_S = 60.0
"""Ray's launcher looks for work every 5 s."""


@dataclass
class Launch:
    """One `up` of one cluster."""

    cluster: ClusterFile
    shell: HostShell
    wait_s: float
    archive: Path | None = None
    began: float = field(default_factory=time.monotonic)
    gpus: dict[str, int] = field(default_factory=dict)
    """Host -> GPUs it has to bring in."""
    failures: dict[str, int] = field(default_factory=dict)
    """Host -> how often Ray's launcher had given it up, as far as that is told."""
    failed: set[str] = field(default_factory=set)
    idle_since: dict[str, float] = field(default_factory=dict)
    """Host -> since when Ray's launcher has not been busy with it."""

    def run(self) -> None:
        """Bring the cluster up, or what is missing of it.

        Raises:
            ChecksFailedError: hosts are not fit; nothing was changed.
            ClusterError: less than every host with every GPU is in.
        """
        states = self.shell.run_on_all(self.look)
        self.gpus = {host: state.gpus for host, state in states.items()}
        with ExitStack() as stack:
            view = HeadView.open(self.shell) if states[self.cluster.head_ip].container == "ours" else None
            missing = self.list_missing(view.look()) if view else list(self.cluster.hosts)
            if view:
                stack.enter_context(closing(view))
            if not missing:
                console.say(f"{self.cluster.cluster_name} is up already: {self.describe()}")
                return
            launcher = None if view else stack.enter_context(start_launcher(self.cluster, "up"))
            examine(self.cluster, self.look, with_archive=self.archive is not None)
            if self.archive is not None:
                image.load_archive(self.shell, self.archive, missing)
            if view is None:
                assert launcher is not None
                self.clear(states)
                launcher.order(with_build=self.archive is None)
                self.follow_head(launcher)
                view = stack.enter_context(closing(HeadView.start(self.shell)))
            else:
                self.add(missing, view)
            self.wait(view)
        image.compare_images(self.shell)
        console.say(f"{self.cluster.cluster_name} is up: {self.describe()}", style="bold green")
        folder = artifacts.folder_of(self.cluster.cluster_name) / "ray"
        console.say(f"Ray's own commands find it with RAY_TMPDIR={folder}: ray submit {self.cluster.path} DRIVER.py")

    def add(self, missing: Sequence[str], view: HeadView) -> None:
        """Bring in hosts beside those that are in, which are not touched.

        Raises:
            ClusterError: the running head has never heard of a host.
        """
        hosts = view.look()
        if strange := [host for host in missing if host not in hosts.known]:
            raise ClusterError(
                f"{', '.join(strange)}: new in {self.cluster.path} since the head was started, and its launcher reads "
                "its hosts once (Ray 2.60)",
                fix=f"raylaunch down {self.cluster.path}, then up: that ends what is served",
            )
        self.failures = {**hosts.failures}
        in_already = [host for host in self.cluster.hosts if host not in missing]
        console.say(f"{', '.join(in_already)} stay as they are; bringing in {', '.join(missing)}")
        self._retry([host for host in missing if hosts.launcher.get(host) not in ray_up_log.UNDER_WAY], view)

    def describe(self) -> str:
        """Hosts and GPUs in words."""
        each = ", ".join(f"{host} ({count})" for host, count in self.gpus.items())
        return f"{len(self.gpus)} hosts, {sum(self.gpus.values())} GPUs: {each}"

    def look(self, host: str) -> HostState:
        """See what a host has, without a change to it."""
        name, label = self.cluster.container_name, self.cluster.cluster_name
        tell = f'{{{{index .Config.Labels "{LABEL}"}}}}|{{{{.State.Running}}}}'
        answer = self.shell.run(
            host,
            "nvidia-smi -L 2>/dev/null | grep -c '^GPU '; "
            f"docker inspect --type container -f '{tell}' {name} 2>/dev/null; true",
            timeout_s=20,
        )
        if answer.unreachable:
            return HostState(0, "unreachable")
        count, _, found = answer.stdout.strip().partition("\n")
        container = {"": "none", f"{label}|true": "ours", f"{label}|false": "ended"}.get(found.strip(), "foreign")
        return HostState(int(count) if count.isdigit() else 0, container)

    def list_missing(self, hosts: Hosts) -> list[str]:
        """Hosts that are not in with all their GPUs."""
        return [host for host in self.cluster.hosts if hosts.gpus.get(host, -1) < self.gpus[host]]

    def clear(self, states: Mapping[str, HostState]) -> None:
        """Remove what an earlier run left: no Ray head lives, so nothing of ours serves.

        Raises:
            ClusterError: a container of our name is somebody else's.
        """
        name = self.cluster.container_name
        if foreign := [host for host, state in states.items() if state.container == "foreign"]:
            raise ClusterError(
                f"{', '.join(foreign)}: a container named {name} is there, which no `raylaunch up` started",
                fix=f"on that host: docker rm -f {name}; or another docker.container_name in {self.cluster.path}",
            )
        self._remove_containers([host for host, state in states.items() if state.container != "none"])
        shutil.rmtree(artifacts.folder_of(self.cluster.cluster_name) / "ray", ignore_errors=True)

    def _remove_containers(self, hosts: Sequence[str]) -> None:
        if not hosts:
            return
        console.say(f"removing the container of an earlier run on {', '.join(hosts)}")
        command = f"docker rm -f {self.cluster.container_name}"
        self.shell.run_on_all(lambda host: self.shell.run(host, command) if host in hosts else None)

    def follow_head(self, launcher: Launcher) -> None:
        """Follow Ray's launcher as it sets the head up.

        Raises:
            ClusterError: it failed; with what the head's host said.
        """
        with console.live_lines() as report:
            while launcher.is_alive():
                waited = f"{time.monotonic() - self.began:.0f} s of at most {self.wait_s:.0f} s"
                stage = ray_up_log.read_stage(launcher.read_log())
                report([f"{self.cluster.head_ip}: head: {stage} | {waited}"])
                if time.monotonic() - self.began > self.wait_s:
                    raise ClusterError(
                        f"{self.cluster.head_ip}: the head was not up within {self.wait_s:.0f} s, at: {stage}",
                        log=launcher.log,
                    )
                time.sleep(_STEP_S)
        if launcher.status != 0:
            failure = ray_up_log.read_failure(launcher.read_log())
            raise ClusterError(
                f"{self.cluster.head_ip}: the head could not be set up: {failure.what}",
                fix=failure.fix,
                excerpt=failure.excerpt,
                log=launcher.log,
            )

    def wait(self, view: HeadView) -> None:
        """Follow the head's view until every host is in.

        Raises:
            ClusterError: a host failed twice, is gone, or brought fewer GPUs than it has; or the time is over.
        """
        with self.shell.watch_reachability() as lost, console.live_lines() as report:
            while missing := self.list_missing(hosts := view.look()):
                waited_s = time.monotonic() - self.began
                report([self._describe_host(host, hosts, waited_s) for host in self.cluster.hosts])
                for host in missing:
                    self._examine(host, hosts, view)
                    if (said := lost.get(host)) is not None:
                        raise self._make_lost(host, said)
                if waited_s > self.wait_s:
                    raise ClusterError(
                        f"{', '.join(missing)} did not come in within {self.wait_s:.0f} s; "
                        f"Ray has {sum(hosts.gpus.values())} of {sum(self.gpus.values())} GPUs",
                        fix="wait longer with --wait-s, or look with `ray monitor`",
                    )
            report([self._describe_host(host, hosts, time.monotonic() - self.began) for host in self.cluster.hosts])

    def _describe_host(self, host: str, hosts: Hosts, waited_s: float) -> str:
        if host in hosts.gpus:
            stage = f"in, {hosts.gpus[host]} of {self.gpus[host]} GPUs"
        else:
            stage = ray_up_log.STAGES.get(hosts.launcher.get(host, ""), "waiting for the head to begin with it")
        role = "head" if host == self.cluster.head_ip else "worker"
        return f"{host}: {role}: {stage} | {waited_s:.0f} s of at most {self.wait_s:.0f} s"

    def _examine(self, host: str, hosts: Hosts, view: HeadView) -> None:
        """See whether a missing host still has a way in."""
        if host in hosts.gpus:
            raise ClusterError(
                f"{host} has {self.gpus[host]} GPUs, but Ray in its container found {hosts.gpus[host]}",
                fix=f"on that host: docker exec {self.cluster.container_name} nvidia-smi -L; "
                "NVIDIA's container toolkit hands them over (`raylaunch doctor` looks at it)",
            )
        if hosts.launcher.get(host, "uninitialized") != "uninitialized":
            self.idle_since.pop(host, None)
        elif time.monotonic() - self.idle_since.setdefault(host, time.monotonic()) > _BEGIN_S:
            raise ClusterError(
                f"{host}: Ray's launcher on the head did not begin with it within {_BEGIN_S:.0f} s",
                fix=f"`raylaunch down {self.cluster.path}`, then up: that ends what is served",
            )
        if hosts.failures.get(host, 0) == self.failures.get(host, 0):
            return
        self.failures[host] = hosts.failures[host]
        failure = find_cause(self.shell, host, view.read_monitor_log())
        if host in self.failed:
            if (said := self.shell.knock(host)) is not None:  # the head's launcher says only that its command failed
                raise self._make_lost(host, said)
            raise ClusterError(f"{host} failed twice: {failure.what}", fix=failure.fix, excerpt=failure.excerpt)
        console.say(f"{host} failed: {failure.what}; once more")
        self.failed.add(host)
        self._retry([host], view)

    def _make_lost(self, host: str, said: str) -> ClusterError:
        return ClusterError(
            f"{host} does not answer any more: {said}",
            fix=f"see to that host; `raylaunch up {self.cluster.path}` then adds it to the others",
        )

    def _retry(self, hosts: Sequence[str], view: HeadView) -> None:
        """Have Ray's launcher begin anew with hosts; it stumbles over the name of a container that has ended."""
        self._remove_containers([host for host in hosts if self.look(host).container == "ended"])
        for host in hosts:
            self.idle_since.pop(host, None)
        view.retry(hosts)


def up(cluster: ClusterFile, *, archive: Path | None = None, wait_s: float = 1800.0) -> None:
    """Bring a cluster up, whole; returns when every host is in with every GPU.

    Args:
        archive: file of `docker save` for hosts that lack the image.
        wait_s: longest wait in seconds.

    Raises:
        RaylaunchError: it is not up whole; what failed, where, and what to do.
    """
    artifacts.write_kit(cluster.cluster_name)
    Launch(cluster, HostShell.of(cluster), wait_s, archive).run()
