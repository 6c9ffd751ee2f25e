"""The end of the workers on every node of a cluster that others use, too: asked for through Ray, then by their mark."""

from typing import Any

from raylaunch.base import console, processes
from raylaunch.base.processes import MARK_VARIABLE, RANK_TITLE
from raylaunch.cluster import ray_session, ship
from raylaunch.serve.driver import Driver

_PATIENCE_S = 6.0
"""Ray kills a worker that does not go, a stopped one too, five seconds after its placement group is gone (2.60)."""
_ANSWER_S = 10.0


def end_workers(driver: Driver, mark: str) -> None:
    """Give the reservation back and see the workers of this start gone from every living node; kill those left.

    A node that does not answer is left to Ray: it ends its workers when it finds their job gone.
    """
    import ray

    if driver.reservation is None or not ray.is_initialized():
        return
    placed = {place.node.node_id for place in driver.reservation.places}
    try:
        driver.reservation.release()
        with ship.by_value(processes):
            kill = ray.remote(num_cpus=0, max_retries=0)(processes.kill_marked)
            asked: dict[Any, str] = {
                kill.options(scheduling_strategy=ship.on_node(node.node_id)).remote(
                    MARK_VARIABLE, mark, _PATIENCE_S, RANK_TITLE
                ): node.ip
                for node in ray_session.list_nodes()
                if node.node_id in placed
            }
        done, _ = ray.wait(list(asked), num_returns=len(asked), timeout=_ANSWER_S)
        for answer in done:
            if pids := ray.get(answer):
                console.say(f"node {asked[answer]}: had to kill workers {', '.join(map(str, pids))}")
    except (ray.exceptions.RayError, RuntimeError, ConnectionError) as error:
        console.say(f"Ray did not help to end the workers ({type(error).__name__}); it ends them by itself")
