"""Ends the workers of an engine on every node of a joined cluster: through Ray, then by their mark."""

from typing import Any

from raylaunch.base import console, processes
from raylaunch.base.processes import RANK_TITLES
from raylaunch.cluster import ray_session, ship
from raylaunch.serve.driver import Driver

_GRACE_S = 6.0
"""Ray kills a worker that does not end, a stopped one too, five seconds after its placement group is removed (2.60)."""
_ANSWER_S = 10.0


def end_workers(driver: Driver, mark: str) -> None:
    """Release the reservation, then kill the workers of this start that are left on any living node.

    On a node that does not answer Ray ends the workers itself, when it notices that their job has ended.
    """
    import ray

    if driver.reservation is None or not ray.is_initialized():
        return
    placed = {place.node.node_id for place in driver.reservation.places}
    try:
        driver.reservation.release()
        with ship.by_value(processes):
            kill = ray.remote(num_cpus=0, max_retries=0)(processes.kill_marked)
            calls: dict[Any, str] = {
                kill.options(scheduling_strategy=ship.on_node(node.node_id)).remote(
                    mark, _GRACE_S, RANK_TITLES
                ): node.ip
                for node in ray_session.list_nodes()
                if node.node_id in placed
            }
        done, _ = ray.wait(list(calls), num_returns=len(calls), timeout=_ANSWER_S)
        for answer in done:
            if pids := ray.get(answer):
                console.say(f"node {calls[answer]}: had to kill workers {', '.join(map(str, pids))}")
    except (ray.exceptions.RayError, RuntimeError, ConnectionError) as error:
        console.say(f"workers could not be ended through Ray ({type(error).__name__}); Ray ends them itself")
