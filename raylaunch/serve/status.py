"""`raylaunch status`: a service of this machine, from its record, Ray and the server's metrics."""

import contextlib
from dataclasses import dataclass
from pathlib import Path

from raylaunch.base.errors import ClusterError
from raylaunch.base.http_client import fetch_text
from raylaunch.base.text import describe_age
from raylaunch.base.viewpoint import Viewpoint
from raylaunch.cluster import ray_session
from raylaunch.engine.metrics import parse_metrics
from raylaunch.serve.messages import PlacedRank
from raylaunch.serve.readiness import StartupTimes
from raylaunch.serve.service_record import ReplicaRecord, Service

_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class NodeStatus:
    """A node that carries ranks."""

    ip: str
    hostname: str | None
    """None if Ray has lost it."""
    alive: bool
    ranks: tuple[int, ...]


@dataclass(frozen=True)
class Status:
    """A service at this moment; the fields are the keys of `status --json`."""

    model: str
    models: tuple[str, ...]
    url: str
    ready: bool
    state: str
    since: float
    """Wall clock of the state's beginning, in seconds since 1970."""
    pid: int
    rehearsal: str | None
    launch_file: str | None
    note: str
    restarts: int
    last_incident: str | None
    stand_by: bool
    layout: int
    """0: the launch's own one; else the entry of fallback.layouts that is served, from 1."""
    degraded: str
    """What is served instead of the launch's own layout, and why; "" where that is served."""
    warnings: tuple[str, ...]
    ray_address: str | None
    requests_running: int | None
    requests_waiting: int | None
    kv_cache_use: float | None
    """Share in use, 0 to 1."""
    nodes: tuple[NodeStatus, ...]
    ranks: tuple[PlacedRank, ...]
    replicas: tuple[ReplicaRecord, ...]
    kv_cache_tokens: int | None
    max_model_len: int | None
    startup: StartupTimes | None
    log: Path

    def to_lines(self) -> list[str]:
        """For people."""
        state = "not answering" if self.state == "ready" and not self.ready else self.state
        lines = [f"{self.model} at {self.url}/v1: {state} for {describe_age(self.since)}"]
        if self.note:
            lines.append(self.note)
        if self.degraded:
            lines.append(f"degraded: {self.degraded}")
        lines += [f"warning: {warning}" for warning in self.warnings]
        if self.restarts:
            command = Viewpoint.of_this_process().command("incidents", self.last_incident or "last")
            why = f"; `{command}`" if self.last_incident else ""
            lines.append(f"started again {self.restarts} time(s){why}")
        if self.rehearsal:
            lines.append(f"a rehearsal: stand-in model on {self.rehearsal}")
        if self.kv_cache_use is not None:
            lines.append(
                f"requests: {self.requests_running} running, {self.requests_waiting} waiting; "
                f"KV cache {self.kv_cache_use:.0%} in use"
            )
        lines += [
            f"node {node.ip}: {'alive' if node.alive else 'GONE'}, ranks {', '.join(map(str, node.ranks))}"
            for node in self.nodes
        ]
        if len(self.replicas) > 1:
            lines += [
                f"replica {replica.index}: {replica.state}, on {', '.join(replica.nodes) or 'no node yet'}"
                for replica in self.replicas
            ]
        view = Viewpoint.of_this_process()
        log = f"its log: `{view.command('logs')}`" if view.is_remote else f"pid {self.pid}, log {self.log}"
        return [*lines, log]


def query(service: Service) -> Status:
    """The status of `service`, from the server and Ray; either may not answer."""
    answers = fetch_text(f"{service.url}/health", _TIMEOUT_S, service.client_cert) is not None
    metrics = fetch_text(f"{service.url}/metrics", _TIMEOUT_S, service.client_cert) if answers else None
    engine = parse_metrics(metrics) if metrics else None
    return Status(
        model=service.models[0],
        models=service.models,
        url=service.shown_url,
        ready=service.state == "ready" and answers,
        state=service.state,
        since=service.state_since or service.started_at,
        pid=service.supervisor.pid,
        rehearsal=service.rehearsal,
        launch_file=service.launch_file,
        note=service.note,
        restarts=service.restarts,
        last_incident=service.last_incident,
        stand_by=service.stand_by is not None,
        layout=service.layout,
        degraded=service.degraded,
        warnings=service.warnings,
        ray_address=service.ray_address,
        requests_running=engine.running if engine else None,
        requests_waiting=engine.waiting if engine else None,
        kv_cache_use=engine.kv_cache_use if engine else None,
        nodes=_query_nodes(service),
        ranks=service.ranks,
        replicas=service.replicas,
        kv_cache_tokens=service.engine.kv_cache_tokens if service.engine else None,
        max_model_len=service.engine.max_model_len if service.engine else None,
        startup=service.startup,
        log=service.folder / "engine.log",
    )


def _query_nodes(service: Service) -> tuple[NodeStatus, ...]:
    ranks: dict[str, list[PlacedRank]] = {}
    for rank in service.ranks:
        ranks.setdefault(rank.node, []).append(rank)
    if not ranks or service.ray_address is None:
        return ()
    hostnames: dict[str, str] = {}
    # Of one cluster, or of the private Ray of each replica.
    for address in dict.fromkeys(replica.ray_address for replica in service.replicas if replica.ray_address):
        with contextlib.suppress(ClusterError):
            ray_session.join(address, env_vars={})
            hostnames |= {node.node_id: node.hostname for node in ray_session.list_nodes()}
            ray_session.leave()
    return tuple(
        NodeStatus(placed[0].ip, hostnames.get(node_id), node_id in hostnames, tuple(rank.rank for rank in placed))
        for node_id, placed in ranks.items()
    )
