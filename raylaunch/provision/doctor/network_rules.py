"""The network between the hosts: free ports, no firewall in either direction, and equal links."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from raylaunch.base.addresses import is_address
from raylaunch.config import cluster_ports
from raylaunch.config.cluster_file import ClusterFile
from raylaunch.provision.doctor.gather import HostFacts, list_ports
from raylaunch.provision.doctor.verdicts import Check, Verdict

_SLOW_MBIT_S = 10_000
_MAX_NAMED = 4


def judge_network(
    hosts: Sequence[HostFacts], cluster: ClusterFile, *, api_port: int | None = None
) -> Iterator[Verdict]:
    """Verdicts on ports, firewalls and links.

    Args:
        api_port: the port that a launch serves on; None leaves it unchecked.
    """
    for facts in hosts:
        yield _judge_ports(facts, cluster)
        if api_port is not None and facts.address == cluster.head_ip:
            yield _judge_api_port(facts, cluster, api_port)
    if len(cluster.hosts) > 1:
        yield from _judge_firewalls(hosts)
        yield from _judge_links(hosts)
    for facts in hosts:
        yield _judge_rdma(facts, cluster)


def _judge_ports(facts: HostFacts, cluster: ClusterFile) -> Verdict:
    """Every port that Ray is configured to listen on, by the kernel's table and by listening on it."""
    host, container, check = facts.address, facts.objects.container, Check("ports", facts.address)
    if container and container.runs_ray:
        return check.ok(f"held by {cluster.container_name}, which runs already")
    if facts.sockets is None and facts.network is None:
        return check.unknown("neither /proc/net/tcp nor Python is available there")
    wanted = {*list_ports(cluster, host), *range(cluster_ports.MIN_WORKER, cluster_ports.MAX_WORKER + 1)}
    if host == cluster.head_ip:
        wanted.add(cluster_ports.DASHBOARD)
    taken = sorted(wanted & ((facts.sockets or frozenset()) | (facts.network.taken if facts.network else frozenset())))
    if not taken:
        return check.ok("free")
    names = [
        cluster_ports.describe(port) + (f" by {facts.listeners[port]}" if port in facts.listeners else "")
        for port in taken
    ]
    return check.failed(
        f"taken: {_list_first(names)}",
        f"{facts.system.sudo}ss -ltnp 'sport = :{taken[0]}' names the program; stop it, or move it to another port",
    )


def _judge_api_port(facts: HostFacts, cluster: ClusterFile, port: int) -> Verdict:
    check, container = Check("API port", facts.address), facts.objects.container
    if facts.sockets is None:
        return check.unknown("/proc/net/tcp could not be read there")
    if port not in facts.sockets:
        return check.ok(f"{port} is free")
    if container and container.runs_ray:
        status = f"raylaunch status --cluster {cluster.shown_path}"
        return check.warning(f"{port} is in use while {cluster.container_name} runs", f"{status} shows what serves")
    holder = f" by {facts.listeners[port]}" if port in facts.listeners else ""
    return check.failed(
        f"{port} is taken{holder}",
        f"stop what `{facts.system.sudo}ss -ltnp 'sport = :{port}'` names, or set another server.port",
    )


def _list_first(names: Sequence[str]) -> str:
    more = len(names) - _MAX_NAMED
    return ", ".join(names[:_MAX_NAMED]) + (f" and {more} more" if more > 0 else "")


def _judge_firewalls(hosts: Sequence[HostFacts]) -> Iterator[Verdict]:
    """Each ordered pair of hosts, by real connections to real listeners."""
    for facts in hosts:
        check, others = Check("firewall", facts.address), [other for other in hosts if other is not facts]
        if facts.network is None:
            yield check.unknown("no Python there, which would listen and connect")
            continue
        blocked = [(other, ports) for other in others if (ports := _find_blocked(facts, other))]
        yield from (_describe_block(facts, other, ports) for other, ports in blocked)
        if untried := [other.address for other in others if other.network is None]:
            yield check.unknown(f"connections to {', '.join(untried)} could not be tried")
        elif not blocked and others:
            yield check.ok("reaches all other hosts on all ports")


def _find_blocked(source: HostFacts, target: HostFacts) -> Mapping[int, str]:
    """Ports of `target` with a listener of the probe that `source` did not reach, and how each failed."""
    if source.network is None or target.network is None:
        return {}
    results = source.network.reached.get(target.address, {})
    return {port: results[port] for port in sorted(target.network.listening) if results.get(port, "open") != "open"}


def _describe_block(source: HostFacts, target: HostFacts, blocked: Mapping[int, str]) -> Verdict:
    assert target.network is not None
    every = len(blocked) == len(target.network.listening)
    ports = "any of the cluster's ports" if every else _list_first([cluster_ports.describe(port) for port in blocked])
    one_way = "" if _find_blocked(target, source) else "; the other direction is open: a one-way firewall"
    return Check("firewall", source.address).failed(
        f"does not reach {target.address} on {ports} ({', '.join(sorted(set(blocked.values())))}){one_way}",
        f"on {target.address}: {_open_command(target, source.route.source or source.address)}",
    )


def _open_command(target: HostFacts, source: str) -> str:
    """NCCL and Gloo use any port, so the host is allowed on all of them."""
    sudo = target.system.sudo
    if target.firewall == "ufw":
        return f"{sudo}ufw allow from {source}"
    if target.firewall == "firewalld":
        return f"{sudo}firewall-cmd --permanent --zone=trusted --add-source={source} && {sudo}firewall-cmd --reload"
    return f"{sudo}iptables -I INPUT -s {source} -j ACCEPT (then check OUTPUT on {source}, and firewalls between them)"


def _judge_links(hosts: Sequence[HostFacts]) -> Iterator[Verdict]:
    """The interface of the route to the other hosts: its address, MTU and speed."""
    mtus = Counter(facts.route.mtu for facts in hosts if facts.route.mtu is not None)
    usual = mtus.most_common(1)[0][0] if mtus else None
    for facts in hosts:
        route, host, check = facts.route, facts.address, Check("network", facts.address)
        if route.link is None:
            yield check.unknown("no `ip` there, or no route to the other hosts")
            continue
        link = f"{route.link}, MTU {route.mtu}"
        if is_address(host) and route.source not in (None, host):
            yield check.warning(
                f"its route to the other hosts uses {route.source} ({route.link}), not {host}: Ray and vLLM would "
                "disagree on its address",
                f"write {route.source} in the cluster file, or set VLLM_HOST_IP={host} there",
            )
        elif route.mtu != usual:
            yield check.warning(
                f"{link}, the other hosts have {usual}: large packets may get lost",
                f"{facts.system.sudo}ip link set {route.link} mtu {usual}",
            )
        elif route.speed_mbit_s is None:
            yield check.unknown(f"{link}; the link does not report its speed")
        elif route.speed_mbit_s < _SLOW_MBIT_S:
            yield check.warning(
                f"{link}, {route.speed_mbit_s / 1000:g} Gbit/s: enough for pipeline stages with short prompts, never "
                "for tensor parallelism between hosts",
                f"ethtool {route.link} shows what the card supports",
            )
        else:
            yield check.ok(f"{link}, {route.speed_mbit_s / 1000:g} Gbit/s")


def _judge_rdma(facts: HostFacts, cluster: ClusterFile) -> Verdict:
    """A host with InfiniBand or RoCE gives its devices to the container; else NCCL silently uses sockets."""
    check, devices = Check("InfiniBand", facts.address), facts.hardware.rdma
    if not devices:
        return check.ok("no InfiniBand or RoCE device")
    options = cluster.options_of(facts.address)
    text = " ".join([*cluster.run_options, *options.find_all("--device")])  # with what the host's shell expands
    if options.find("--privileged") is not None or "/dev/infiniband" in text:
        return check.ok(f"{', '.join(devices)}: given to the container")
    return check.warning(
        f"{', '.join(devices)}: the container does not get it, and NCCL uses sockets",
        "add `- --device=/dev/infiniband --cap-add=IPC_LOCK` to docker.run_options (configs/two-node.yaml has a "
        "line that does so where a host has it)",
    )
