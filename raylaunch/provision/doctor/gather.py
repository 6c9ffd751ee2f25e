"""Check all hosts of a cluster at once: facts of each, and what each reaches of the others."""

import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from raylaunch.base.addresses import is_address
from raylaunch.base.errors import ClusterError
from raylaunch.config import cluster_ports
from raylaunch.config.cluster_file import ClusterFile
from raylaunch.provision.container import runtime_of
from raylaunch.provision.doctor import probe_facts
from raylaunch.provision.doctor.hardware_facts import Hardware, parse_hardware
from raylaunch.provision.doctor.session import Listening, ProbeSession, connect
from raylaunch.provision.private_key import check_key
from raylaunch.provision.ssh import Ssh, SshFailure
from raylaunch.provision.template import BASE_IMAGE, LAYER_IMAGE

SSH_PORT = 22
ANY_PORT = 47_999
"""Stands for the ports that NCCL, Gloo and vLLM get from the kernel: inside its range, and assigned to no service."""
WORKER_PORTS = (cluster_ports.MIN_WORKER, cluster_ports.MAX_WORKER)
"""First and last stand for all of the range."""
_CONNECT_S = 3.0
"""A port inside one network that has not answered in this time does not answer."""
_HEAD_TO_WORKER_S = 10.0


@dataclass(frozen=True, slots=True)
class NetworkFacts:
    """What a host found of the network from its own side."""

    listening: frozenset[int]
    """Ports that it could listen on for the check."""
    taken: frozenset[int]
    """Ports that another program holds."""
    reached: Mapping[str, Mapping[int, str]]
    """Other host -> port -> "open", "refused", "silent" or "unreachable"."""
    clock_ahead_s: float
    """Its clock against this machine's, to about a tenth of a second."""


@dataclass(frozen=True, slots=True)
class HostFacts:
    """Everything that was found of one host that could be reached."""

    address: str
    noise: str
    shell: probe_facts.Section
    """Ray's own kind of login shell; it should have printed RAN and nothing else."""
    name: probe_facts.Section
    sudo: probe_facts.Section
    system: probe_facts.System
    docker: probe_facts.RuntimeFacts
    objects: probe_facts.RuntimeObjects
    has_base_image: bool
    """Whether it has the image that `up` builds the cluster's image on."""
    gpus: probe_facts.HostGpus
    hardware: Hardware
    route: probe_facts.Route
    disks: tuple[probe_facts.Disk, ...]
    kernel: probe_facts.Section
    """Lines of the kernel's log that may tell of faults."""
    memory: tuple[int, int] | None
    """Total and available bytes."""
    sockets: frozenset[int] | None
    """Ports with a listener; None where the kernel's table could not be read."""
    listeners: Mapping[int, str]
    firewall: str
    """"ufw" or "firewalld" where one is active."""
    network: NetworkFacts | None
    """None without Python there, or without its answer."""


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """What was found of a cluster."""

    key_problem: str
    """Of the private key, see check_key; empty where it is fit or none is configured."""
    hosts: tuple[HostFacts, ...]
    failures: Mapping[str, SshFailure]
    """Hosts that could not be reached."""
    from_head: Mapping[str, SshFailure | None]
    """Worker -> why the head cannot log in there with the key; None where it can. Untried workers are left out."""
    seconds: float


def gather(cluster: ClusterFile, *, model_path: str | None = None) -> ClusterFacts:
    """Probe every host; nothing is changed on any, and no connection is left open.

    Args:
        model_path: of the model in the containers, whose disk is measured; None: that of the volume of models.

    Raises:
        ClusterError: this machine has no ssh.
    """
    if shutil.which("ssh") is None:
        raise ClusterError("this machine has no ssh", fix="sudo apt-get install -y openssh-client")
    began = time.monotonic()
    key_problem = check_key(cluster.ssh_private_key) if cluster.ssh_private_key else ""
    if key_problem in ("missing", "public", "no key", "broken"):
        return ClusterFacts(key_problem, (), {}, {}, time.monotonic() - began)
    sockets = Path(tempfile.mkdtemp(prefix="rl-", dir="/tmp"))
    try:
        hosts, failures, from_head = _probe_hosts(cluster, Ssh.of(cluster, sockets), model_path)
    finally:
        shutil.rmtree(sockets, ignore_errors=True)
    return ClusterFacts(key_problem, hosts, failures, from_head, time.monotonic() - began)


def _probe_hosts(
    cluster: ClusterFile, ssh: Ssh, model_path: str | None
) -> tuple[tuple[HostFacts, ...], dict[str, SshFailure], dict[str, SshFailure | None]]:
    head, runtime = cluster.head_ip, runtime_of(cluster).program
    base = BASE_IMAGE if cluster.image == LAYER_IMAGE else ""

    def probe(host: str) -> ProbeSession | SshFailure:
        peer = cluster.worker_ips[0] if host == head and cluster.worker_ips else head
        models = quote_folder(cluster.find_model_folder(model_path))
        return connect(ssh, host, [cluster.container_name, cluster.image, peer, models, runtime, base])

    with ThreadPoolExecutor(max_workers=2 * len(cluster.hosts)) as pool:
        answers = dict(zip(cluster.hosts, pool.map(probe, cluster.hosts), strict=True))
        sessions = [answer for answer in answers.values() if isinstance(answer, ProbeSession)]
        failures = {host: answer for host, answer in answers.items() if isinstance(answer, SshFailure)}
        reached = {session.host for session in sessions}
        try:
            tried = [host for host in cluster.worker_ips if host in reached and head in reached and ssh.key]
            logins = pool.map(lambda worker: _log_in_from_head(ssh, head, worker), tried)
            networks = _probe_network(cluster, sessions, pool)
            from_head = dict(zip(tried, logins, strict=True))
        finally:
            list(pool.map(ProbeSession.close, sessions))
    facts = (
        make_facts(session.host, session.probe, network) for session, network in zip(sessions, networks, strict=True)
    )
    return tuple(facts), failures, from_head


def make_facts(address: str, probe: probe_facts.Probe, network: NetworkFacts | None) -> HostFacts:
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
        has_base_image=probe.find("base").status == 0,
        gpus=probe_facts.parse_gpus(probe.find("gpus"), probe.find("holders")),
        hardware=parse_hardware(probe.find("hardware")),
        route=probe_facts.parse_route(probe.find("route")),
        disks=probe_facts.parse_disks(probe.find("disk")),
        kernel=probe.find("kernel"),
        memory=probe_facts.parse_memory(probe.find("memory")),
        sockets=probe_facts.parse_sockets(sockets) if sockets.text else None,
        listeners=probe_facts.parse_listeners(probe.find("listeners")),
        firewall=probe.find("firewall").text.strip(),
        network=network,
    )


def quote_folder(folder: str) -> str:
    """A folder of run_options as the inside of a shell's double quotes, where ~ is not expanded."""
    escaped = folder.replace("\\", "\\\\").replace('"', '\\"')
    return f"$HOME{escaped[1:]}" if escaped == "~" or escaped.startswith("~/") else escaped


def list_ports(cluster: ClusterFile, host: str) -> tuple[int, ...]:
    """Ports of a host that the other hosts have to reach."""
    own = cluster_ports.HEAD if host == cluster.head_ip else ()
    return (*own, *cluster_ports.EVERY_NODE, *WORKER_PORTS, ANY_PORT)


def _probe_network(
    cluster: ClusterFile, sessions: Sequence[ProbeSession], pool: ThreadPoolExecutor
) -> list[NetworkFacts | None]:
    """Have all hosts listen, and when all do, have each connect to all the others."""

    def listen(session: ProbeSession) -> Listening | None:
        # A name may be loopback on its own host: there every address is listened on.
        address = session.host if is_address(session.host) else ""
        return session.listen(address, list_ports(cluster, session.host))

    listening = list(pool.map(listen, sessions))
    ready = {session.host for session, answer in zip(sessions, listening, strict=True) if answer}

    def connect_to_others(session: ProbeSession, own: Listening | None) -> NetworkFacts | None:
        targets = list(_list_targets(cluster, session.host, ready))
        sent = time.time()
        answer = session.connect_to(targets, _CONNECT_S) if own else None
        if own is None or answer is None:
            return None
        reached: dict[str, dict[int, str]] = {}
        for (host, port), result in zip(targets, answer.results, strict=True):
            reached.setdefault(host, {})[port] = result
        return NetworkFacts(own.free, own.taken, reached, answer.clock - sent)

    return list(pool.map(connect_to_others, sessions, listening))


def _list_targets(cluster: ClusterFile, host: str, ready: set[str]) -> Iterable[tuple[str, int]]:
    for other in cluster.hosts:
        if other != host and other in ready:
            yield from ((other, port) for port in list_ports(cluster, other))
        if host == cluster.head_ip and other != host:
            yield other, SSH_PORT


def _log_in_from_head(ssh: Ssh, head: str, worker: str) -> SshFailure | None:
    """Log in from the head to a worker with the key alone, as `ray up` will from there; None where it works.

    The key stays on this machine: the session to the worker goes through the one to the head.
    """
    result = ssh.run(worker, "true", options=ssh.through(head), only_key=True, timeout_s=_HEAD_TO_WORKER_S)
    return result.failure if result.unreachable else None
