"""The process that is our driver in Ray: it holds the GPUs, and reports what becomes of nodes and ranks.

The supervisor starts `python -m raylaunch.serve.driver_main`. Ray ends a process on its own where its head or its
raylet is gone (2.60), and calls into it may block for a minute: all of that happens here, and the supervisor survives
it. It answers PlaceRanks with GpuWait, Joined and Placed, or Failed and its end; then it sends DriverPulse twice a
second.
"""

import os
import signal
import sys
import time
from typing import NoReturn

from raylaunch.base import console
from raylaunch.base.errors import ClusterError, RaylaunchError
from raylaunch.base.ipc import Failed, ParentLink, end_on_sigterm
from raylaunch.base.processes import MARK_VARIABLE
from raylaunch.cluster import monitor, ray_session
from raylaunch.config import launch_file
from raylaunch.config.launch import LaunchConfig
from raylaunch.engine.rehearsal import plan
from raylaunch.preflight.findings import raise_on_errors
from raylaunch.preflight.requirements import make_request, plan_ranks
from raylaunch.preflight.run import check_nodes
from raylaunch.serve import sweep
from raylaunch.serve.driver import Driver
from raylaunch.serve.fallback_checks import check_fallbacks
from raylaunch.serve.messages import (
    CheckLaunch,
    GoOn,
    Joined,
    JoinPrivateRay,
    LaunchChecked,
    Placed,
    PlacedRank,
    PlaceRanks,
)
from raylaunch.serve.rank_watch import HealthSampler, RankWatcher
from raylaunch.weights.fetch_local import fetch_model

_LOOK_EVERY_S = 0.5
_SAMPLE_EVERY_S = 2.0
_FREEING_S = 20.0
"""A killed process's GPU memory is free within a second or two, a zombie's never."""


def fetch(launch: LaunchConfig) -> float:
    """Fetch a model that belongs into raylaunch's own folder; returns the seconds that it took.

    Raises:
        RaylaunchError: it cannot be fetched, or is none that can be served.
    """
    began = time.monotonic()
    if launch.model.path is None and launch.model.repo is not None:
        fetch_model(
            launch.model.repo,
            launch.model.revision,
            launch.model_folder,
            load_format=launch.load_format,
            command=launch.pull_command,
            report=console.say,
        )
        launch_file.check_local_model(launch)
    return time.monotonic() - began


def place(order: PlaceRanks, parent: ParentLink, fetch_s: float) -> Driver:
    """From an order to reserved GPUs, reporting each stage; the driver that holds them.

    Args:
        fetch_s: what `fetch` took.

    Raises:
        RaylaunchError: what keeps the ranks from their places.
        BrokenPipeError: the supervisor is gone.
    """
    threads = plan.bind_threads(order.standin, order.launch.world_size)
    driver = Driver(order, {**order.env_vars, **threads}, parent.send)
    try:
        joining = time.monotonic()
        driver.join(parent.wait_for(JoinPrivateRay) if order.is_private else None)
        join_s = time.monotonic() - joining
        end_on_sigterm()  # again: ray.init puts a handler of its own in its place (Ray 2.60)
        parent.send(Joined(driver.address))
        if order.hold:
            parent.wait_for(GoOn)
        found = driver.confirm_gpus()
        driver.place(found)
        driver.check(found, grace_s=0.0 if order.wait_s is None else _FREEING_S)
        driver.show_map()
        engine_options = driver.check_network()
    except BaseException:
        driver.release()
        raise
    assert driver.reservation is not None
    parent.send(
        Placed(
            reservation=driver.reservation.group_id,
            env_vars=dict(driver.env_vars),
            ranks=tuple(
                PlacedRank(place.rank, place.tp_rank, place.pp_rank, place.node.ip, place.gpu, place.node.node_id)
                for place in driver.reservation.places
            ),
            fetch_s=fetch_s,
            join_s=join_s,
            wait_s=driver.seconds["wait"],
            check_s=driver.seconds["check"],
            forecast=driver.forecast,
            engine=engine_options,
        )
    )
    return driver


def watch(order: PlaceRanks, driver: Driver, parent: ParentLink) -> NoReturn:
    """Send pulses until a signal ends this process.

    Raises:
        BrokenPipeError: the supervisor is gone.
    """
    assert driver.reservation is not None
    nodes = {place.node.node_id: place.node.ip for place in driver.reservation.places}
    ranks = RankWatcher(driver.reservation.group_id, nodes, tensor_parallel_size=order.launch.tensor_parallel_size)
    is_here = order.standin is not None and driver.private is not None
    gpus = {
        ip: frozenset(place.gpu for place in driver.reservation.places if place.node.ip == ip and place.gpu is not None)
        for ip in nodes.values()
    }
    sampler = monitor.LocalMonitor(_SAMPLE_EVERY_S) if is_here else monitor.Monitor(_SAMPLE_EVERY_S)
    health = HealthSampler(sampler, {} if order.standin else gpus)
    try:
        while True:
            began = time.monotonic()
            parent.send(health.complete(ranks.make_pulse()))
            for message in parent.receive(max(0.05, _LOOK_EVERY_S - (time.monotonic() - began))):
                if isinstance(message, CheckLaunch):
                    problem = check_other(message, rehearse=order.is_rehearsal)
                    parent.send(LaunchChecked(problem.what if problem else "", problem.fix if problem else ""))
            if parent.is_closed:
                raise BrokenPipeError("the supervisor is gone")
    finally:
        health.stop()


def check_other(order: CheckLaunch, *, rehearse: bool) -> RaylaunchError | None:
    """Why another launch could not be served on these nodes, whose GPUs the current one holds; None where it could.

    GPU memory is not checked: the current engine frees it first.
    """
    launch, block = order.launch, order.launch.cluster
    try:
        nodes = [node for node in ray_session.list_nodes() if node.gpus >= block.gpus_per_node][: block.nodes]
        if len(nodes) < block.nodes:
            raise ClusterError(
                f"the launch needs {block.nodes} nodes with {block.gpus_per_node} GPUs, Ray has {len(nodes)}",
                fix="`ray status` shows the nodes",
            )
        plan_ranks(launch, nodes)
        if not rehearse and launch.model.path is not None:
            request = make_request(launch, logical_gpus=True)
            facts, findings = check_nodes(nodes, request)
            raise_on_errors(findings)
            check_fallbacks(order.fallbacks, nodes, facts, request)
    except RaylaunchError as error:
        return error
    return None


def main() -> None:
    """Wait for the order, hold the GPUs, report what is seen; return them at the end."""
    end_on_sigterm()
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"  # or the sampler's thread joins again after `release` (Ray 2.60)
    parent = ParentLink()
    try:
        order = parent.wait_for(PlaceRanks)
        console.speak_as(order.speaker)
        fetch_s = fetch(order.launch)  # before the engine's environment, which keeps it from the hub
        os.environ.update(order.env_vars)
        driver = place(order, parent, fetch_s)
    except RaylaunchError as error:
        parent.send(Failed(error))
        sys.exit(1)
    except BrokenPipeError:  # the supervisor is gone
        sys.exit(1)
    try:
        watch(order, driver, parent)
    except BrokenPipeError:  # the supervisor is gone
        sys.exit(1)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if driver.private is None:
            sweep.end_workers(driver, order.env_vars[MARK_VARIABLE])
        driver.release()


if __name__ == "__main__":
    main()
