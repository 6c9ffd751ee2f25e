"""Rules for hosts' links and interfaces: connections, large packets, rates, and the interfaces that variables name."""

import statistics
from collections.abc import Iterator, Sequence

from raylaunch.node.network.interfaces import Interface, NodeNetwork
from raylaunch.node.network.links import LinkMeasured
from raylaunch.preflight.findings import Finding
from raylaunch.preflight.network.measured import NetworkMeasured

_SLOW_SHARE = 0.5
"""Of the median of its kind, or of what its interface's driver reports: half a link is a fault, not noise."""
_MIB_S_PER_MBIT = 1 / 8
_RESENT_SHARE = 0.03
"""Of packets; a sound cable loses under one in a thousand, a busy receiver drops one in a hundred of a burst."""
_FAR_US = 5000.0
"""Of a round trip: a decode step takes 10 to 50 ms, and waits for each hop. Local networks have 20 to 500 us."""


def judge_links(measured: NetworkMeasured) -> Iterator[Finding]:
    """Findings on links between nodes."""
    rates = [rate for link in measured.links for rate in (link.out_mb_s, link.in_mb_s) if rate is not None]
    median = statistics.median(rates) if len(rates) > 2 else None
    for link in measured.links:
        if link.error:
            yield Finding(
                link.source,
                f"cannot open a connection to {link.target}: {link.error}",
                f"let {link.source} reach every TCP port of {link.target} (and back): ranks listen on ports of their "
                f"own; `ip route get {link.target}` and the firewall of {link.target} show why",
            )
            continue
        yield from _judge_packets(link, measured)
        if (link.round_trip_us or 0.0) > _FAR_US:
            yield Finding(
                link.source,
                f"a round trip to {link.target} takes {(link.round_trip_us or 0.0) / 1e3:,.0f} ms: no local network",
                "place the ranks on nodes of one local network, as every token waits for each hop; "
                f"`ip route get {link.target}` shows whether a VPN or another site lies between",
                "warning",
            )
        elif not measured.is_one_machine:
            yield from _judge_rate(link, measured, median)


def _judge_packets(link: LinkMeasured, measured: NetworkMeasured) -> Iterator[Finding]:
    stalled = [
        f"{source} to {target}"
        for source, target, rate in (
            (link.source, link.target, link.out_mb_s), (link.target, link.source, link.in_mb_s),
        )
        if rate is None
    ]  # fmt: skip
    facts = measured.find_facts(link.source)
    own = facts.find_own() if facts else None
    if link.lost:
        name, mtu = (own.name, own.mtu) if own else ("<interface>", max(link.lost))
        what = f"packets of {link.lost[0]:,} bytes to {link.target} vanish, those of {link.passed:,} arrive"
        yield Finding(
            link.source,
            what + (f"; transfers stall from {' and '.join(stalled)}" if stalled else "") + f" ({name} has MTU {mtu})",
            f"on every host: `ip link set dev {name} mtu {_round_mtu(link.passed)}`, or let every switch between them "
            f"pass packets of {mtu} bytes",
            "error" if stalled else "warning",
        )
    elif stalled:
        yield Finding(
            link.source,
            f"a transfer stalls from {' and '.join(stalled)}, though connections open and single bytes pass",
            "check the cable, the switch port and MTU of both hosts: `ip -s link` counts errors and drops",
        )


def _round_mtu(passed: int) -> int:
    """A usual MTU that surely passes."""
    return max((mtu for mtu in (1280, 1400, 1500) if mtu <= passed), default=1280)


def _judge_rate(link: LinkMeasured, measured: NetworkMeasured, median: float | None) -> Iterator[Finding]:
    for source, target, rate, resent in (
        (link.source, link.target, link.out_mb_s, link.out_resent),
        (link.target, link.source, link.in_mb_s, link.in_resent),
    ):
        facts = measured.find_facts(source)
        own = facts.find_own() if facts else None
        nominal = own.speed_mbit_s * _MIB_S_PER_MBIT if own and own.speed_mbit_s else None
        if rate is None:
            continue
        name = own.name if own else "<interface>"
        fix = f"`ethtool {name}` and `ip -s link` on both hosts: speed, duplex, errors"
        loses = f"; {resent:.0%} of its packets are lost" if resent >= _RESENT_SHARE else ""
        if median is not None and rate < _SLOW_SHARE * median:
            what = f"the link to {target} carries {rate:,.0f} MB/s, the median of all links {median:,.0f}"
            yield Finding(source, what + loses, fix, "warning")
        elif nominal is not None and rate < _SLOW_SHARE * nominal and nominal <= _TCP_LIMIT_MB_S:
            what = f"the link to {target} carries {rate:,.0f} MB/s of the {nominal:,.0f} that its interface has"
            yield Finding(source, what + loses, fix, "warning")
        elif loses:
            what = f"{resent:.0%} of the packets to {target} are lost and sent again"
            fix = f"`ethtool -S {name}` and `ip -s link` on both hosts count drops and errors: cable, port, duplex"
            yield Finding(source, what, fix, "warning")


_TCP_LIMIT_MB_S = 1250.0
"""10 Gbit/s: one connection fills such a link on any host; faster ones it need not."""


def judge_addresses(measured: NetworkMeasured) -> Iterator[Finding]:
    """An address that two Ray nodes have: what is sent to one may reach the other."""
    nodes = {place.node.node_id: place.node for place in measured.places}.values()
    for ip in dict.fromkeys(node.ip for node in nodes):
        names = sorted(node.hostname for node in nodes if node.ip == ip)
        if len(names) > 1:
            yield Finding(
                ip,
                f"{len(names)} Ray nodes have the address {ip}: {', '.join(names)}",
                f"give each host an address of its own (`ip neigh show {ip}` on a third host), then start Ray again",
            )


def judge_interfaces(measured: NetworkMeasured) -> Iterator[Finding]:
    """Variables that name an interface which a node does not have, or that leads to no other node."""
    for facts in measured.facts:
        own = facts.find_own()
        others = {one.address for other in measured.facts if other is not facts for one in other.interfaces}
        for variable in ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"):
            if not (wanted := facts.environment.get(variable, "")):
                continue
            matches = _find_matches(facts, variable, wanted)
            shared = [one for one in facts.interfaces if one.name in matches and one.address in others - {""}]
            if matches and (len(shared) < len(matches) or measured.is_one_machine or _is_loopback(shared)):
                continue
            what = f"{variable}={wanted} names no interface of this node; it has "
            what += ", ".join(one.name for one in facts.interfaces)
            if matches:
                what = f"{variable}={wanted} is {shared[0].address} here and on another node: it leads to none of them"
            value = own.name if own else "<one of them>"
            yield Finding(facts.node_ip, what, f"start Ray on {facts.node_ip} with {variable}={value}")


def _is_loopback(interfaces: Sequence[Interface]) -> bool:
    return all(one.address.startswith("127.") for one in interfaces)


def _find_matches(facts: NodeNetwork, variable: str, wanted: str) -> tuple[str, ...]:
    """The interfaces that a variable's value means; Gloo takes exact names alone."""
    exactly = "=" if variable.startswith("GLOO") and "=" not in wanted[:2] else ""
    return find_named([one.name for one in facts.interfaces], exactly + wanted)


def find_named(names: Sequence[str], wanted: str) -> tuple[str, ...]:
    """Which names a list of NCCL's means: prefixes, "=name" exactly, "^name" all others.

    Source: NCCL's documentation of NCCL_SOCKET_IFNAME and NCCL_IB_HCA.
    """
    without, exactly = wanted.startswith("^"), "=" in wanted[:2]
    listed = [name.partition(":")[0] for name in wanted.lstrip("^=").split(",") if name]
    hit = [name for name in names if (name in listed if exactly else name.startswith(tuple(listed)))]
    return tuple(name for name in names if name not in hit) if without else tuple(hit)
