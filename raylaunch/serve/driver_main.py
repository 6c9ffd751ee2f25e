"""The process that is our driver in Ray: it holds the GPUs, and tells what becomes of nodes and workers.

    python -m raylaunch.serve.driver_main --events FD        (started by the supervisor, and by nobody else)

Ray ends a process of its own accord where its head or its raylet is gone (2.60), and calls into it may block for a
minute: all of that happens here, and the supervisor outlives it. Stages told as events::

    joined    Ray's address                      placed    launch, reservation, places: the engine's order
    waiting   what is waited for, in words       pulse     twice a second: what is dead, gone, short of memory
    failed    a RaylaunchError, then the end
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from raylaunch.base import console
from raylaunch.base.errors import ChecksFailedError, ClusterError, LaunchFileError, RaylaunchError
from raylaunch.base.ipc import Events, OrderReader, end_on_sigterm
from raylaunch.base.processes import MARK_VARIABLE
from raylaunch.cluster import monitor, placement, ray_session
from raylaunch.cluster.ray_session import ClusterNode
from raylaunch.config import launch_file
from raylaunch.config.launch import LaunchConfig
from raylaunch.engine.rehearsal import plan
from raylaunch.preflight import run as node_checks
from raylaunch.serve import rank_watch, sweep
from raylaunch.serve.driver import Driver, OwnRay
from raylaunch.weights.fetch_local import fetch_model

_LOOK_EVERY_S = 0.5
_SAMPLE_EVERY_S = 2.0
_FREEING_S = 20.0
"""A killed process's GPU memory is free within a second or two, a zombie's never."""


@dataclass(frozen=True)
class Order:
    """What the supervisor asks, as one JSON line."""

    launch: LaunchConfig
    rehearse: bool
    standin: str | None
    wait_s: float | None
    """Longest wait for the GPUs instead of the launch's own: a restart waits on."""
    env_vars: dict[str, str]
    """Environment of everything in Ray."""
    hold: bool
    """Wait for the order to "place" once Ray is joined: the GPUs are not free yet, and may never have to be."""
    private: bool
    """Wait for the order to "join" a private Ray, which is being started."""

    @classmethod
    def from_line(cls, line: str) -> "Order":
        """The order in a line of JSON."""
        fields = json.loads(line)
        return cls(**fields | {"launch": LaunchConfig.from_json(fields["launch"])})


Tell = Callable[..., None]


def find_weights(order: Order) -> tuple[LaunchConfig, bool]:
    """See to the model's folder where that is ours to do, and check its shape.

    Returns:
        The launch to serve, and whether the real model's own heads and layers were at hand (in a rehearsal).
    """
    if order.rehearse:
        assert order.standin is not None
        return plan.make_rehearsal(order.launch, order.standin)
    launch = order.launch
    if launch.model.path is None:
        fetch_model(launch.model.repo, launch.model.revision, launch.model_folder, report=console.say)
        launch_file.check_model_at_hand(launch)
    return launch, True


def place(order: Order, tell: Tell, reader: OrderReader) -> Driver:
    """From an order to reserved GPUs, telling each stage; the driver that holds them."""
    began = time.monotonic()
    launch, real_shape = find_weights(order)
    fetch_s = time.monotonic() - began
    if order.wait_s is not None:
        launch = launch_file.with_values(launch, {"cluster.wait_s": order.wait_s}, why="restart")
    threads = plan.bind_threads(order.standin, launch.world_size)
    driver = Driver(launch, order.standin, {**order.env_vars, **threads})
    driver.on_wait = lambda lines: tell("waiting", lines=list(lines))
    try:
        joining = time.monotonic()
        driver.join(_wait_for_private(reader) if order.private else None)
        driver.seconds["join"] = time.monotonic() - joining
        end_on_sigterm()  # again: ray.init puts a handler of its own in its place (Ray 2.60)
        tell("joined", address=driver.address)
        if order.hold and reader.wait_for("place") is None:
            sys.exit(0)  # the supervisor is gone
        found = driver.confirm_gpus()
        _check(driver, found, patience_s=0.0 if order.wait_s is None else _FREEING_S)
        reservation = driver.place(found)
    except BaseException:
        driver.release()
        raise
    tell(
        "placed",
        launch=launch.to_json(),
        reservation=reservation.group_id,
        env_vars=dict(driver.env_vars),
        ranks=[
            {"rank": p.rank, "tp_rank": p.tp_rank, "pp_rank": p.pp_rank, "ip": p.node.ip, "gpu": p.gpu}
            | {"node": p.node.node_id}
            for p in reservation.places
        ],
        seconds={**driver.seconds, "fetch": fetch_s},
        real_shape=real_shape,
    )
    return driver


def _wait_for_private(reader: OrderReader) -> OwnRay:
    if (told := reader.wait_for("join")) is None:
        sys.exit(0)  # the supervisor is gone
    return OwnRay(told["address"], Path(told["folder"]))


def _check(driver: Driver, found: tuple[ClusterNode, ...], *, patience_s: float) -> None:
    """The node checks; after an incident with patience, while dead processes still let go of GPU memory."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            driver.check(found)
        except ChecksFailedError as error:
            if "GPU" not in error.what or time.monotonic() >= deadline:
                raise
            time.sleep(1.0)
        else:
            return


def watch(order: Order, driver: Driver, tell: Tell, reader: OrderReader) -> NoReturn:
    """Tell pulses until a signal ends this process."""
    assert driver.reservation is not None
    nodes = {place.node.node_id: place.node.ip for place in driver.reservation.places}
    eyes = rank_watch.Eyes(driver.reservation.group_id, nodes, tensor_parallel_size=driver.config.tensor_parallel_size)
    here = driver.standin_kind is not None and driver.private is not None
    sampler = rank_watch.Sampler(monitor.LocalMonitor(_SAMPLE_EVERY_S) if here else monitor.Monitor(_SAMPLE_EVERY_S))
    try:
        while True:
            began = time.monotonic()
            tell("pulse", **eyes.look(), **sampler.look())
            for line in reader.wait(max(0.05, _LOOK_EVERY_S - (time.monotonic() - began))):
                problem = check_other(LaunchConfig.from_json(json.loads(line)["launch"]), rehearse=order.rehearse)
                tell("checked", what=problem.what if problem else "", fix=problem.fix if problem else "")
    finally:
        sampler.stop()


def check_other(launch: LaunchConfig, *, rehearse: bool) -> RaylaunchError | None:
    """Whether another launch could be served on these nodes, while ours holds their GPUs; None where it could.

    GPU memory is not looked at: it will be free by then.
    """
    block = launch.cluster
    try:
        nodes = [node for node in ray_session.list_nodes() if node.gpus >= block.gpus_per_node][: block.nodes]
        if len(nodes) < block.nodes:
            raise ClusterError(
                f"it asks for {block.nodes} nodes with {block.gpus_per_node} GPUs, Ray has {len(nodes)}",
                fix="`ray status` shows the nodes",
            )
        placement.plan_places(
            nodes,
            tp=launch.tensor_parallel_size,
            pp=launch.pipeline_parallel_size,
            gpus_per_node=block.gpus_per_node,
            tp_across_nodes=block.tp_across_nodes,
        )
        if not rehearse and launch.model.path is not None:
            request = node_checks.make_request(launch, logical_gpus=True)
            node_checks.raise_on_errors(node_checks.check_nodes(nodes, request)[1])
    except RaylaunchError as error:
        return error
    return None


def _tell_failure(error: RaylaunchError, tell: Tell) -> None:
    tell(
        "failed",
        type=type(error).__name__,
        what=error.what,
        fix=error.fix,
        excerpt=list(error.excerpt),
        problems=list(error.problems) if isinstance(error, LaunchFileError) else [],
    )


def main() -> None:
    """Read the order, hold the GPUs, tell what is seen; give them back at the end."""
    end_on_sigterm()
    tell, reader = Events().tell, OrderReader()
    order = Order.from_line(reader.read_first())
    os.environ.update(order.env_vars)
    try:
        driver = place(order, tell, reader)
    except RaylaunchError as error:
        _tell_failure(error, tell)
        sys.exit(1)
    try:
        watch(order, driver, tell, reader)
    except BrokenPipeError:  # the supervisor is gone
        sys.exit(1)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if driver.private is None:
            sweep.end_workers(driver, order.env_vars[MARK_VARIABLE])
        driver.release()


if __name__ == "__main__":
    main()
