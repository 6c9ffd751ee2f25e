"""Look at all hosts of a cluster at once: facts of each, and what each reaches of the others."""

import asyncio
import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from raylaunch.base.errors import ClusterError
from raylaunch.config import cluster_ports
from raylaunch.config.cluster_file import ClusterFile
from raylaunch.provision.doctor import probe_facts
from raylaunch.provision.doctor.session import Session, connect
from raylaunch.provision.ssh import Ssh, SshFailure, check_key, read_failure

SSH_PORT = 22
ANY_PORT = 47_999
"""Stands for the ports that NCCL, Gloo and vLLM get from the kernel: inside its range, and nobody's by name."""
WORKER_PORTS = (cluster_ports.MIN_WORKER, cluster_ports.MAX_WORKER)
"""First and last stand for all of the range."""
_KNOCK_S = 3.0
"""A port that does not answer for so long inside one network does not answer."""
_HEAD_TO_WORKER_S = 10.0


@dataclass(frozen=True, slots=True)
class Network:
    """What a host saw of the network from its own side."""

    listening: frozenset[int]
    """Ports that it could take for the check."""
    taken: frozenset[int]
    """Ports that somebody else holds."""
    reached: Mapping[str, Mapping[int, str]]
    """Other host -> port -> "open", "refused", "silent" or "unreachable"."""
    clock_ahead_s: float
    """Its clock against this machine's, to about a tenth of a second."""


@dataclass(frozen=True, slots=True)
class HostFacts:
    """Everything that was seen of one host that could be reached."""

    address: str
    noise: str
    shell: probe_facts.Section
    """Ray's own kind of login shell; it should have said RAN and nothing else."""
    name: probe_facts.Section
    sudo: probe_facts.Section
    system: probe_facts.System
    docker: probe_facts.Docker
    objects: probe_facts.Objects
    gpus: probe_facts.Gpus
    route: probe_facts.Route
    disks: tuple[probe_facts.Disk, ...]
    memory: tuple[int, int] | None
    sockets: frozenset[int] | None
    """Ports with a listener; None where the kernel's table could not be read."""
    listeners: Mapping[int, str]
    firewall: str
    """"ufw" or "firewalld" where one is active."""
    network: Network | None
    """None where it could not be asked: no Python there, or no answer."""


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen of a cluster."""

    key_problem: str
    """Of the private key, see ssh.check_key; "" where it is fit or none is named."""
    hosts: tuple[HostFacts, ...]
    failures: Mapping[str, SshFailure]
    """Hosts that could not be reached."""
    from_head: Mapping[str, SshFailure | None]
    """Worker -> why the head cannot log in there with the key; None where it can. Workers not asked are left out."""
    seconds: float


def look(cluster: ClusterFile) -> Look:
    """Look at every host; nothing is changed on any, and no connection is left open.

    Raises:
        ClusterError: there is no ssh on this machine.
    """
    if shutil.which("ssh") is None:
        raise ClusterError("there is no ssh on this machine", fix="sudo apt-get install -y openssh-client")
    began = time.monotonic()
    key_problem = check_key(cluster.ssh_private_key) if cluster.ssh_private_key else ""
    if key_problem in ("missing", "broken"):
        return Look(key_problem, (), {}, {}, time.monotonic() - began)
    sockets = Path(tempfile.mkdtemp(prefix="rl-", dir="/tmp"))
    try:
        return asyncio.run(_look(cluster, Ssh.of(cluster, sockets), key_problem, began))
    finally:
        shutil.rmtree(sockets, ignore_errors=True)


async def _look(cluster: ClusterFile, ssh: Ssh, key_problem: str, began: float) -> Look:
    first_worker = cluster.worker_ips[0] if cluster.worker_ips else cluster.head_ip

    def peer(host: str) -> str:
        return first_worker if host == cluster.head_ip else cluster.head_ip

    answers = await asyncio.gather(
        *(
            connect(ssh, host, [cluster.container_name, cluster.image, peer(host), cluster.model_folder])
            for host in cluster.hosts
        )
    )
    sessions = [answer for answer in answers if isinstance(answer, Session)]
    failures = {
        host: answer for host, answer in zip(cluster.hosts, answers, strict=True) if isinstance(answer, SshFailure)
    }
    try:
        networks, from_head = await asyncio.gather(
            _look_at_network(cluster, sessions), _try_from_head(cluster, ssh, [session.host for session in sessions])
        )
    finally:
        await asyncio.gather(*(session.close() for session in sessions))
    hosts = tuple(
        make_facts(session.host, session.probe, network) for session, network in zip(sessions, networks, strict=True)
    )
    return Look(key_problem, hosts, failures, from_head, time.monotonic() - began)


def make_facts(address: str, probe: probe_facts.Probe, network: Network | None) -> HostFacts:
    """The probe's sections, parsed."""
    sockets = probe.find("sockets")
    return HostFacts(
        address=address,
        noise=probe.noise,
        shell=probe.find("shell"),
        name=probe.find("name"),
        sudo=probe.find("sudo"),
        system=probe_facts.parse_system(probe.find("system")),
        docker=probe_facts.parse_docker(probe.find("docker")),
        objects=probe_facts.parse_objects(probe.find("objects")),
        gpus=probe_facts.parse_gpus(probe.find("gpus"), probe.find("holders")),
        route=probe_facts.parse_route(probe.find("route")),
        disks=probe_facts.parse_disks(probe.find("disk")),
        memory=probe_facts.parse_memory(probe.find("memory")),
        sockets=probe_facts.parse_sockets(sockets) if sockets.text else None,
        listeners=probe_facts.parse_listeners(probe.find("listeners")),
        firewall=probe.find("firewall").text.strip(),
        network=network,
    )


def is_address(host: str) -> bool:
    """Whether a host is named by a number, and not by a name."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def list_ports(cluster: ClusterFile, host: str) -> tuple[int, ...]:
    """Ports of a host that the other hosts have to reach."""
    own = cluster_ports.HEAD if host == cluster.head_ip else ()
    return (*own, *cluster_ports.EVERY_NODE, *WORKER_PORTS, ANY_PORT)


async def _look_at_network(cluster: ClusterFile, sessions: Sequence[Session]) -> list[Network | None]:
    """Have all hosts listen, and when all do, have each try all the others."""

    def listen(host: str) -> dict[str, Any]:
        # A name may be loopback on its own host: there every address is listened on.
        return {"address": host if is_address(host) else "", "ports": list_ports(cluster, host)}

    listening = await asyncio.gather(*(session.order(listen(session.host)) for session in sessions))
    there = {session.host for session, answer in zip(sessions, listening, strict=True) if answer}

    async def knock(session: Session, mine: dict[str, list[int]] | None) -> Network | None:
        targets = list(_list_targets(cluster, session.host, there))
        sent = time.time()
        if mine is None:
            return None
        answer = await session.order({"targets": targets, "wait_s": _KNOCK_S}, longer_s=_KNOCK_S)
        if answer is None:
            return None
        reached: dict[str, dict[int, str]] = {}
        for (host, port), result in zip(targets, answer["results"], strict=True):
            reached.setdefault(host, {})[port] = str(result)
        return Network(frozenset(mine["listening"]), frozenset(mine["taken"]), reached, float(answer["clock"]) - sent)

    return list(await asyncio.gather(*map(knock, sessions, listening)))


def _list_targets(cluster: ClusterFile, host: str, there: set[str]) -> Iterable[tuple[str, int]]:
    for other in cluster.hosts:
        if other != host and other in there:
            yield from ((other, port) for port in list_ports(cluster, other))
        if host == cluster.head_ip and other != host:
            yield other, SSH_PORT


async def _try_from_head(cluster: ClusterFile, ssh: Ssh, there: Sequence[str]) -> dict[str, SshFailure | None]:
    """Log in from the head to each worker that was reached, with the key alone, as `ray up` will from there.

    The key stays on this machine: the session to the worker is carried through the one to the head.
    """
    if cluster.head_ip not in there or ssh.key is None:
        return {}

    async def attempt(worker: str) -> SshFailure | None:
        command = ssh.command(worker, "true", options=ssh.through(cluster.head_ip), only_key=True)
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        try:
            _, stderr = await asyncio.wait_for(process.communicate(), _HEAD_TO_WORKER_S)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            return SshFailure("slow", f"no answer within {_HEAD_TO_WORKER_S:.0f} s")
        return None if process.returncode != 255 else read_failure(stderr.decode(errors="replace"))

    workers = [worker for worker in cluster.worker_ips if worker in there]
    return dict(zip(workers, await asyncio.gather(*map(attempt, workers)), strict=True))
