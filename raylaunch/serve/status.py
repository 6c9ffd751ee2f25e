"""`raylaunch status`: what serves here, from its record, from Ray and from the server's own metrics."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raylaunch.base.errors import ClusterError
from raylaunch.base.text import describe_age
from raylaunch.cluster import ray_session
from raylaunch.engine.metrics import EngineFigures, fetch_text, parse_metrics
from raylaunch.serve.service_record import Service


@dataclass(frozen=True)
class Status:
    """A service as it is now."""

    service: Service
    answers: bool
    """Whether its /health says 200."""
    figures: EngineFigures | None
    nodes: tuple[dict[str, Any], ...]
    """ip, hostname (None if gone), alive, ranks: of each node that carries ranks."""

    def to_json(self) -> dict[str, Any]:
        """For programs: stable keys, no secrets."""
        service = self.service
        return {
            "model": service.models[0],
            "models": list(service.models),
            "url": service.url,
            "ready": service.state == "ready" and self.answers,
            "state": service.state,
            "since": service.ready_at or service.started_at,
            "pid": service.supervisor.pid,
            "rehearsal": service.rehearsal,
            "launch_file": service.launch_file,
            "note": service.note,
            "restarts": service.restarts,
            "last_incident": service.last_incident,
            "stand_by": service.stand_by is not None,
            "warnings": list(service.warnings),
            "ray_address": service.ray_address,
            "requests_running": self.figures.running if self.figures else None,
            "requests_waiting": self.figures.waiting if self.figures else None,
            "kv_cache_use": self.figures.kv_cache_use if self.figures else None,
            "nodes": list(self.nodes),
            "ranks": list(service.ranks),
            **service.facts,
            "log": str(service.folder / "engine.log"),
        }

    def to_lines(self) -> list[str]:
        """For people."""
        service = self.service
        told = "ready" if service.state == "ready" and self.answers else service.state
        if service.state == "ready" and not self.answers:
            told = "not answering"
        since = describe_age(service.ready_at or service.started_at)
        lines = [f"{service.models[0]} at {service.url}/v1: {told} for {since}"]
        if service.note:
            lines.append(service.note)
        lines += [f"warning: {warning}" for warning in service.warnings]
        if service.restarts:
            lines.append(f"started again {service.restarts} time(s); `raylaunch incidents {service.last_incident}`")
        if service.rehearsal:
            lines.append(f"a rehearsal: stand-in model on {service.rehearsal}")
        if self.figures:
            lines.append(
                f"requests: {self.figures.running} running, {self.figures.waiting} waiting; "
                f"KV cache {self.figures.kv_cache_use:.0%} in use"
            )
        lines += [
            f"node {node['ip']}: {'alive' if node['alive'] else 'GONE'}, ranks {', '.join(map(str, node['ranks']))}"
            for node in self.nodes
        ]
        lines.append(f"pid {service.supervisor.pid}, log {service.folder / 'engine.log'}")
        return lines


def look_at(service: Service) -> Status:
    """Ask the server and Ray about `service`; whoever does not answer is told as such, not raised."""
    answers = fetch_text(f"{service.url}/health") is not None
    metrics = fetch_text(f"{service.url}/metrics") if answers else None
    return Status(service, answers, parse_metrics(metrics) if metrics else None, _look_at_nodes(service))


def _look_at_nodes(service: Service) -> tuple[dict[str, Any], ...]:
    ranks: dict[str, list[Mapping[str, Any]]] = {}
    for rank in service.ranks:
        ranks.setdefault(rank["node"], []).append(rank)
    if not ranks or service.ray_address is None:
        return ()
    try:
        ray_session.join(service.ray_address, env_vars={})
    except ClusterError:
        alive: dict[str, ray_session.ClusterNode] = {}
    else:
        alive = {node.node_id: node for node in ray_session.list_nodes()}
        ray_session.leave()
    return tuple(
        {
            "ip": placed[0]["ip"],
            "hostname": alive[node_id].hostname if node_id in alive else None,
            "alive": node_id in alive,
            "ranks": [rank["rank"] for rank in placed],
        }
        for node_id, placed in ranks.items()
    )
