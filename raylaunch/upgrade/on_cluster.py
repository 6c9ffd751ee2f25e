"""An upgrade of a cluster's service, from the laptop: another launch, or another image of all containers."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from raylaunch.base import paths
from raylaunch.base.errors import ClusterError, RaylaunchError, ServiceError
from raylaunch.bench.target import Target, check_target
from raylaunch.config import cluster_file, launch_file
from raylaunch.config.cluster_file import ClusterFile
from raylaunch.config.launch import LaunchConfig
from raylaunch.config.layers import name_lock
from raylaunch.lock.lock_file import write_lock
from raylaunch.provision import artifacts, image, remote, remote_launch
from raylaunch.provision.down import down, list_services
from raylaunch.provision.host_shell import HostShell
from raylaunch.provision.up import up
from raylaunch.upgrade.gate import describe_changes
from raylaunch.upgrade.place import ANSWER_TIMEOUT_S, Preparation, Served, compare_launches


@dataclass(frozen=True)
class OnCluster:
    """The service on a port of a cluster's head."""

    cluster: ClusterFile
    """As its file is now."""
    image: str
    """Of the containers that run."""
    port: int
    running: int | None
    is_rehearsal: bool
    key: str | None = field(repr=False)
    """Of the API, where this machine keeps it."""
    report: Callable[[str], None]
    timeout_s: float

    @classmethod
    def open(
        cls, cluster: ClusterFile, port: int | None, report: Callable[[str], None], timeout_s: float
    ) -> "OnCluster":
        """The service that runs there.

        Raises:
            RaylaunchError: the cluster is not up, or serves nothing on that port.
        """
        shell = HostShell.of(cluster)
        status = remote.query_status(cluster, port)
        inspect = shell.runtime.inspect(cluster.container_name, "{{.Config.Image}}")
        running = shell.run(cluster.head_ip, inspect).stdout.strip()
        key = remote_launch.read_key(cluster, status.port)
        return cls(cluster, running, status.port, status.requests_running, status.is_rehearsal, key, report, timeout_s)

    @property
    def folder(self) -> Path:
        """On this machine: it outlives the containers."""
        return artifacts.folder_of(self.cluster.cluster_name) / "upgrades" / str(self.port)

    def prepare(self, old: LaunchConfig, new: LaunchConfig) -> Preparation:
        """Compare them."""
        return compare_launches(Served(old, self.image), Served(new, self.image))

    def prepare_image(self, launch: LaunchConfig, name: str) -> Preparation:
        """Fetch an image on every host, and compare it with the one that runs.

        Raises:
            RaylaunchError: it cannot be used; nothing was changed.
        """
        for port, model in list_services(self.cluster).items():
            if port != self.port:
                raise ServiceError(
                    f"{self.cluster.cluster_name} also serves {model} on port {port}, which another image would end",
                    fix=f"`{remote_launch.viewpoint_of(self.cluster).command('stop', f'--port={port}')}`",
                )
        shells = [HostShell.of(self._with_image(one)) for one in (self.image, name)]
        image.fetch(shells[1])
        old, new = ({"image": shell.cluster.image, **image.read_versions(shell)} for shell in shells)
        return Preparation(Served(launch, self.image), Served(launch, name), describe_changes(old, new))

    def swap(self, now: Served, to: Served, /) -> str:
        """As `raylaunch restart --cluster`; for another image the cluster goes down and comes up again."""
        if now.image == to.image:
            words = [f"--port={self.port}", f"--timeout-s={self.timeout_s}"]
            if remote_launch.run_with_launch(self.cluster, to.launch, ["restart"], words, outlives=True):
                raise ServiceError(f"{to.launch.path} is not served: its error is above")
            return f"port {self.port} serves {to.launch.path}"
        try:
            self._exchange(now.image, to)
        except RaylaunchError as error:
            self.report(f"{to.image} does not serve: {error}; going back to {now.image}")
            try:
                self._exchange(to.image, now)
            except RaylaunchError as second:
                raise ServiceError(f"neither image serves: {to.image}: {error}; {now.image}: {second}") from second
            raise ServiceError(f"{to.image} does not serve: {error}; {now.image} does again", fix=error.fix) from error
        return f"{self.cluster.cluster_name} serves with {to.image}"

    def _exchange(self, old: str, to: Served) -> None:
        before, after = self._with_image(old), self._with_image(to.image)
        with contextlib.suppress(ClusterError):  # running requests finish; after a failed start nothing may run
            stop = ["raylaunch", "stop", f"--port={self.port}"]
            HostShell.of(before).run_in_head(stop, timeout_s=self.timeout_s)
        down(before)
        up(after, wait_s=self.timeout_s)
        if self.key is not None:  # `down` forgets it, clients do not
            paths.write_private(artifacts.find_key(after, self.port), self.key)
        launch = launch_file.with_values(to.launch, {"keep.locked": False}, why="upgrade")
        job = remote.serve(after, launch, rehearse=self.is_rehearsal, detach=True, with_key=self.key is not None)
        remote.wait_until_ready(after, job, self.port, self.timeout_s)

    @contextlib.contextmanager
    def reach(self, served: Served) -> Iterator[Target]:
        """Through a tunnel."""
        with remote.reach_service(self.cluster, self.port) as reached:
            key = next(iter(served.launch.api_keys), None) or self.key
            name = served.launch.served_model_names[0]
            yield check_target(Target(reached.url, name, key, timeout_s=ANSWER_TIMEOUT_S))

    def settle(self, served: Served) -> None:
        """Write the image into the cluster file, and the launch's lock file anew where it has one."""
        cluster = self._with_image(served.image)
        if served.image != self.cluster.image:
            cluster_file.write_image(self.cluster.path, served.image)
            self.report(f"{self.cluster.shown_path}: docker.image is {served.image} now")
        path = served.launch.path
        if path is not None and (lock := name_lock(path)).is_file():
            write_lock(lock, remote_launch.read_lock_text(cluster, served.launch))
            self.report(f"wrote {lock}")

    def _with_image(self, name: str) -> ClusterFile:
        if name == self.cluster.image:
            return self.cluster
        return cluster_file.parse(self.cluster.path, cluster_file.change_image(self.cluster.path, name))
