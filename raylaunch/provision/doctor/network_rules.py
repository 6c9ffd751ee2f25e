"""The network between the hosts: ports free, nothing in the way in either direction, links that are alike."""

from collections import Counter
from collections.abc import Iterator, Sequence

from raylaunch.config import cluster_ports
from raylaunch.config.cluster_file import ClusterFile
from raylaunch.provision.doctor.gather import HostFacts, is_address, list_ports
from raylaunch.provision.doctor.verdicts import Verdict, ok, red, unknown, warn

_SLOW_MBIT_S = 10_000
_MOST_NAMED = 4


def judge_network(hosts: Sequence[HostFacts], cluster: ClusterFile) -> Iterator[Verdict]:
    """Verdicts on ports, firewalls and links."""
    for facts in hosts:
        yield _judge_ports(facts, cluster)
    if len(cluster.hosts) > 1:
        yield from _judge_firewalls(hosts)
        yield from _judge_links(hosts)


def _judge_ports(facts: HostFacts, cluster: ClusterFile) -> Verdict:
    """Everything Ray is told to listen on, by the kernel's table, and by really listening."""
    host, container = facts.address, facts.objects.container
    if container and container.runs_ray:
        return ok("ports", host, f"held by {cluster.container_name}, which runs already")
    if facts.sockets is None and facts.network is None:
        return unknown("ports", host, "neither /proc/net/tcp nor Python could be asked there")
    wanted = {*list_ports(cluster, host), *range(cluster_ports.MIN_WORKER, cluster_ports.MAX_WORKER + 1)}
    if host == cluster.head_ip:
        wanted.add(cluster_ports.DASHBOARD)
    taken = sorted(wanted & ((facts.sockets or frozenset()) | (facts.network.taken if facts.network else frozenset())))
    if not taken:
        return ok("ports", host, "free")
    named = [
        cluster_ports.describe(port) + (f" by {facts.listeners[port]}" if port in facts.listeners else "")
        for port in taken[:_MOST_NAMED]
    ]
    more = f" and {len(taken) - _MOST_NAMED} more" if len(taken) > _MOST_NAMED else ""
    return red(
        "ports",
        host,
        f"taken: {', '.join(named)}{more}",
        f"{facts.system.sudo}ss -ltnp 'sport = :{taken[0]}' names who listens; end it, or move it to another port",
    )


def _judge_firewalls(hosts: Sequence[HostFacts]) -> Iterator[Verdict]:
    """Each ordered pair of hosts, by real connections to real listeners."""
    by_host = {facts.address: facts for facts in hosts}
    for facts in hosts:
        if facts.network is None:
            yield unknown("firewall", facts.address, "no Python there that could listen and call")
            continue
        blocked = {
            other: ports
            for other in by_host
            if other != facts.address and (ports := _find_blocked(facts, by_host[other]))
        }
        deaf = [other for other in by_host if by_host[other].network is None and other != facts.address]
        for other, ports in blocked.items():
            yield _describe_block(facts, by_host[other], ports)
        if deaf:
            yield unknown("firewall", facts.address, f"its way to {', '.join(deaf)} could not be tried")
        elif not blocked and len(by_host) > 1:
            yield ok("firewall", facts.address, "reaches all other hosts on all ports")


def _find_blocked(source: HostFacts, target: HostFacts) -> dict[int, str]:
    """Ports of `target` with a listener of ours that `source` did not reach, and how it failed."""
    if source.network is None or target.network is None:
        return {}
    results = source.network.reached.get(target.address, {})
    return {port: results[port] for port in sorted(target.network.listening) if results.get(port, "open") != "open"}


def _describe_block(source: HostFacts, target: HostFacts, blocked: dict[int, str]) -> Verdict:
    assert target.network is not None
    all_of_them = len(blocked) == len(target.network.listening)
    named = [cluster_ports.describe(port) for port in blocked][:_MOST_NAMED]
    more = f" and {len(blocked) - _MOST_NAMED} more" if len(blocked) > _MOST_NAMED else ""
    ports = "any of the cluster's ports" if all_of_them else f"{', '.join(named)}{more}"
    one_way = "" if _find_blocked(target, source) else "; the other direction is open: a one-way firewall"
    return red(
        "firewall",
        source.address,
        f"does not reach {target.address} on {ports} ({', '.join(sorted(set(blocked.values())))}){one_way}",
        f"on {target.address}: {_open_command(target, source.address)}",
    )


def _open_command(target: HostFacts, source: str) -> str:
    """NCCL and Gloo take any port, so the whole host is let in."""
    sudo = target.system.sudo
    if target.firewall == "ufw":
        return f"{sudo}ufw allow from {source}"
    if target.firewall == "firewalld":
        return f"{sudo}firewall-cmd --permanent --zone=trusted --add-source={source} && {sudo}firewall-cmd --reload"
    return f"{sudo}iptables -I INPUT -s {source} -j ACCEPT (then look at OUTPUT on {source}, and at what lies between)"


def _judge_links(hosts: Sequence[HostFacts]) -> Iterator[Verdict]:
    """The interface that leads to the other hosts: whose address it has, its MTU and its speed."""
    mtus = Counter(facts.route.mtu for facts in hosts if facts.route.mtu is not None)
    for facts in hosts:
        route, host = facts.route, facts.address
        if route.link is None:
            yield unknown("network", host, "no `ip` there, or no route to the other hosts")
            continue
        link = f"{route.link}, MTU {route.mtu}"
        usual = mtus.most_common(1)[0][0] if mtus else None
        if is_address(host) and route.source not in (None, host):
            yield warn(
                "network",
                host,
                f"its way to the other hosts leaves from {route.source} ({route.link}), not from {host}: Ray and vLLM "
                "would disagree on its address",
                f"name {route.source} in the cluster file, or set VLLM_HOST_IP={host} there",
            )
        elif route.mtu != usual:
            yield warn(
                "network",
                host,
                f"{link}, the other hosts have {usual}: large packets may get lost",
                f"{facts.system.sudo}ip link set {route.link} mtu {usual}",
            )
        elif route.speed_mbit_s is None:
            yield unknown("network", host, f"{link}; the link does not tell its speed")
        elif route.speed_mbit_s < _SLOW_MBIT_S:
            yield warn(
                "network",
                host,
                f"{link}, {route.speed_mbit_s / 1000:g} Gbit/s: enough for pipeline stages with short prompts, never "
                "for tensor parallelism between hosts",
                f"ethtool {route.link} shows what the card could do",
            )
        else:
            yield ok("network", host, f"{link}, {route.speed_mbit_s / 1000:g} Gbit/s")
