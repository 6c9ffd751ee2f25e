"""The driver: from a launch to GPUs that are confirmed, reserved and checked.

Join Ray, confirm its GPUs, give each rank its place, check every node. Nothing is served here: the supervisor starts
the API server process at the same time.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from raylaunch.base import console
from raylaunch.base.errors import ClusterError
from raylaunch.base.text import describe_span
from raylaunch.cluster import placement, ranks, ray_session
from raylaunch.config.launch import LaunchConfig
from raylaunch.config.parallelism import describe_unused
from raylaunch.engine.rehearsal import plan, standin_model
from raylaunch.lock.check import check_lock
from raylaunch.plan.history import Forecast
from raylaunch.preflight.findings import raise_on_errors, show_findings
from raylaunch.preflight.gpu_rules import list_gpus, list_memory
from raylaunch.preflight.network.run import NetworkRequest, check_network
from raylaunch.preflight.network.shapes import read_shapes
from raylaunch.preflight.requirements import make_request, plan_ranks
from raylaunch.preflight.run import check_nodes
from raylaunch.serve.fallback_checks import check_fallbacks
from raylaunch.serve.forecast import forecast_launch
from raylaunch.serve.messages import JoinPrivateRay, PlaceRanks

_RECHECK_S = 1.0


@dataclass
class Driver:
    """What the driver holds; `release` returns all of it."""

    order: PlaceRanks
    env_vars: Mapping[str, str]
    """Environment of everything that runs in Ray for this launch."""
    on_wait: Callable[[ray_session.GpuWait], None]
    """Gets what exists and what is missing, each time the GPUs are counted."""
    private: JoinPrivateRay | None = None
    address: str = ""
    reservation: placement.Reservation | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    """Stage -> seconds it took."""
    forecast: Forecast | None = None
    """Of the KV cache, once the nodes are checked."""

    @property
    def launch(self) -> LaunchConfig:
        """What the ranks are placed for."""
        return self.order.launch

    def join(self, private: JoinPrivateRay | None = None) -> None:
        """Join the Ray cluster, or a private one.

        Raises:
            ClusterError: there is none, or it cannot be joined.
        """
        self.private = private
        if private is not None:
            # vLLM's ZeroMQ sockets are files that it leaves behind: in here they go with the private cluster.
            own = {**plan.stay_on_loopback(self.order.standin), "VLLM_RPC_BASE_PATH": private.folder}
            self.env_vars = {**self.env_vars, **own}
        address = private.address if private else ray_session.find_address()
        if address is None:
            gpus = self.launch.cluster.gpus_per_node
            raise ClusterError(
                "no Ray cluster runs on this machine, and RAY_ADDRESS is not set",
                fix=f"on the head: `ray start --head --port=6379 --num-gpus={gpus}`; "
                f"on each other node: `ray start --address=<head ip>:6379 --num-gpus={gpus}`; "
                "without GPUs: add --rehearse",
            )
        ray_session.join(address, env_vars=self.env_vars)
        self.address = address
        console.say(f"joined Ray at {address}")

    def confirm_gpus(self) -> tuple[ray_session.ClusterNode, ...]:
        """Wait for the GPUs, one live line per node.

        Raises:
            NotEnoughGpusError: they did not come in time.
        """
        began = time.monotonic()
        block = self.launch.cluster
        with console.live_lines() as show:

            def report(waiting: ray_session.GpuWait) -> None:
                show(waiting.to_lines())
                self.on_wait(waiting)

            found = ray_session.wait_for_gpus(
                nodes=block.nodes,
                gpus_per_node=block.gpus_per_node,
                wait_s=block.wait_s if self.order.wait_s is None else self.order.wait_s,
                report=report,
                inspect=self._inspect,
            )
        self.seconds["wait"] = time.monotonic() - began
        self.say_unused(ray_session.list_nodes())
        return found

    def say_unused(self, nodes: Sequence[ray_session.ClusterNode]) -> None:
        """Say which GPUs that the launch names or Ray has stay unused, with the layout that would use all."""
        block, with_gpus = self.launch.cluster, [node.gpus for node in nodes if node.gpus]
        if self.order.wait_s is not None or self.order.first_node is not None:
            return  # a restart, which has printed it; or one replica
        if self.private is None and sum(with_gpus) > block.nodes * block.gpus_per_node:
            unused = describe_unused(self.launch, nodes=len(with_gpus), gpus_per_node=min(with_gpus))
        else:
            unused = describe_unused(self.launch)
        if unused:
            console.say(f"warning: {unused}", style="yellow")

    def _inspect(self) -> tuple[ray_session.ClusterNode, ...]:
        """The nodes that may carry the ranks, those to take first in front.

        For one of several replicas, those without enough free GPUs come last.
        """
        nodes = ray_session.list_nodes()
        if self.order.first_node is None or not nodes:
            return nodes
        free = ranks.list_free_resources()
        needed, first = self.launch.cluster.gpus_per_node, self.order.first_node % len(nodes)
        fit, taken = [], []
        for node in (*nodes[first:], *nodes[:first]):
            gpus = int(free.get(node.node_id, {}).get("GPU", 0))
            (fit.append(node) if gpus >= needed else taken.append(replace(node, gpus=gpus)))
        return (*fit, *taken)

    def check(self, found: tuple[ray_session.ClusterNode, ...], *, grace_s: float) -> None:
        """Check every node at once and report all findings; a stand-in model is written first where it is missing.

        Of a node's GPUs only those that are reserved are judged.

        Args:
            grace_s: how long to repeat the checks while all errors may pass by themselves, in seconds.

        Raises:
            ChecksFailedError: at least one of them is an error.
            ClusterError: the stand-in could not be written on a node.
        """
        began = time.monotonic()
        if self.private is None and standin_model.is_standin(self.launch.model_folder):
            standin_model.write_on_nodes(self.launch.model_folder, found)
        names = self.reservation.gpu_names if self.reservation else {}
        request = make_request(self.launch, logical_gpus=self.order.standin is not None, reserved_gpus=names)
        while True:
            facts, findings = check_nodes(found, request)
            errors = [finding for finding in findings if finding.level == "error"]
            may_pass = bool(errors) and all(error.is_transient for error in errors)
            if not may_pass or time.monotonic() - began >= grace_s:
                break
            time.sleep(_RECHECK_S)
        show_findings(findings)
        raise_on_errors(findings)
        console.say(f"checked {len(found)} node{'s' if len(found) > 1 else ''}: fit to serve")
        if self.reservation is not None:
            gpus = {node.node_ip: [gpu.index for gpu in list_gpus(node, request)] for node in facts}
            self.reservation = self.reservation.locate(gpus)
        if not standin_model.is_standin(self.launch.model_folder):  # a rehearsal's model and layout are others
            check_lock(self.launch, facts)
        if self.order.standin is None:
            self.forecast = forecast_launch(self.launch, list_memory(facts, request))
        check_fallbacks(self.order.fallbacks, found, facts, request)
        self.seconds["check"] = time.monotonic() - began

    def show_map(self) -> None:
        """Show which rank is on which GPU."""
        assert self.reservation is not None
        console.show(console.make_table(("rank", "TP", "PP", "node", "GPU"), map_rows(self.reservation.places)))

    def place(self, found: tuple[ray_session.ClusterNode, ...]) -> None:
        """Reserve a GPU for each rank.

        Raises:
            NotEnoughGpusError: the GPUs are taken.
        """
        self.reservation = placement.reserve(plan_ranks(self.launch, found))

    def check_network(self) -> dict[str, bool]:
        """Try whether the ranks reach each other; sets the variables that they need.

        Returns:
            The engine options that they need.

        Raises:
            ChecksFailedError: they do not, or a hop between stages costs more than the stage computes.
        """
        assert self.reservation is not None
        places = self.reservation.places
        is_one_node = len({place.node.ip for place in places}) == 1
        is_alone = is_one_node and (self.order.standin is not None or len(places) == 1)
        if is_alone or not self.launch.cluster.check_network:
            return {}
        report = check_network(
            NetworkRequest(
                places,
                self.reservation.group_id,
                shapes=read_shapes(self.launch),
                is_logical=self.order.standin is not None,
            )
        )
        for line in report.to_lines():
            console.say(f"network: {line}")
        show_findings(report.findings)
        if not self.launch.keep.force:
            raise_on_errors(report.findings)
        self.seconds["check"] += report.seconds
        self.env_vars = {**self.env_vars, **report.environment}
        return {"disable_custom_all_reduce": True} if report.disable_custom_all_reduce else {}

    def release(self) -> None:
        """Return the GPUs and leave Ray."""
        import ray

        if ray.is_initialized():
            if self.reservation is not None:
                self.reservation.release()
            ray.shutdown()


def map_rows(places: tuple[placement.RankPlace, ...]) -> list[list[str]]:
    """The rank map, ranks of one node and stage in one row: rank, TP rank, PP rank, node, GPU."""
    rows: list[list[str]] = []
    groups: dict[tuple[str, int], list[placement.RankPlace]] = {}
    for place in places:
        groups.setdefault((place.node.node_id, place.pp_rank), []).append(place)
    for group in groups.values():
        first = group[0]
        rows.append(
            [
                describe_span([place.rank for place in group]),
                describe_span([place.tp_rank for place in group]),
                str(first.pp_rank),
                f"{first.node.ip} ({first.node.hostname})",
                describe_span([place.gpu for place in group if place.gpu is not None]),
            ]
        )
    return rows
