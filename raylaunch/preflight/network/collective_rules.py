"""Rules for trials of collectives: hangs, wrong values, slow transports, and hops that cost more than their stage."""

import re
from collections.abc import Iterable, Iterator, Sequence

from raylaunch.explain.signatures import find_heaviest
from raylaunch.node.network.interfaces import NodeNetwork
from raylaunch.preflight.findings import Finding
from raylaunch.preflight.network.link_rules import find_named
from raylaunch.preflight.network.measured import GroupTrial, HopMeasured, NetworkMeasured
from raylaunch.preflight.network.nccl_log import NcclFacts

WITHOUT_PEER_ACCESS = " without peer access"
HOP_WARN, HOP_REFUSE = 0.3, 1.0
"""Shares of a stage's time: beyond the first a hop is felt, beyond the second the stage waits more than it computes."""
_OF_SOCKETS = ("nccl_no_interface", "nccl_no_network", "nccl_peer_unreachable", "nccl_remote_error")
"""Explained failures that a wrong interface causes."""
_OF_EFA = ("efa", "rdmap")
"""Names that the kernel and rdma-core give to Amazon's adapters, which have no verbs for NCCL's NET/IB."""
_LOOPBACK = re.compile(r"127\.\d+\.\d+\.\d+")
_NAMED_RANKS = re.compile(r"[Rr]anks? (\d+(?:, ?\d+)*) failed to pass monitoredBarrier")


def judge_gloo(measured: NetworkMeasured) -> Iterator[Finding]:
    """All ranks meet over TCP, as vLLM's own control messages do."""
    trial = measured.find_trial("gloo")
    if trial is None or trial.has_passed:
        return
    if lost := list(_judge_lost(measured, trial)):
        yield from lost
        return
    errors = [one.error for one in trial.results if one.error]
    ranks = _find_culprits(trial, errors)
    bound = list(_list_loopback(measured)) if any(_LOOPBACK.search(error) for error in errors) else []
    if bound and not measured.is_one_machine:
        for node, why in bound:
            yield Finding(
                node,
                f"Gloo binds to loopback there, where no other node reaches it ({why})",
                f"start Ray on {node} with GLOO_SOCKET_IFNAME={_find_interface(measured, node)}",
            )
        return
    named = ", ".join(measured.describe_rank(rank) for rank in ranks)
    words = f": {errors[0].splitlines()[0][:160]}" if errors else ""
    nodes = dict.fromkeys(measured.find_ip(rank) for rank in ranks)
    start = _choose_interfaces(measured, nodes, "GLOO_SOCKET_IFNAME")
    yield Finding(
        next(iter(nodes)),
        f"{named} {'does' if len(ranks) == 1 else 'do'} not meet the other ranks over TCP{words}",
        "; ".join([*start, f"firewalls must let every port pass between {' and '.join(nodes)} and the other nodes"]),
    )


def _judge_lost(measured: NetworkMeasured, trial: GroupTrial) -> Iterator[Finding]:
    """A finding for each node whose ranks gave no answer any more."""
    lost = trial.list_lost()
    for ip in dict.fromkeys(measured.find_ip(rank) for rank in lost):
        named = ", ".join(measured.describe_rank(rank) for rank in lost if measured.find_ip(rank) == ip)
        yield Finding(
            ip,
            f"{named}: no answer any more, the process or its node has died during the check",
            "`ray status` lists the nodes that live; `dmesg -T` and raylet.out in Ray's logs on that host say why",
        )


def _list_loopback(measured: NetworkMeasured) -> Iterator[tuple[str, str]]:
    """The nodes where Gloo binds to loopback, and why."""
    for one in measured.facts:
        if name := one.environment.get("GLOO_SOCKET_IFNAME"):
            if name == "lo":
                yield one.node_ip, "GLOO_SOCKET_IFNAME=lo"
        elif not one.resolved:
            yield one.node_ip, f"its hostname, {one.hostname}, resolves to nothing"
        elif _LOOPBACK.match(one.resolved) or one.resolved == "::1":
            yield one.node_ip, f"its hostname, {one.hostname}, is {one.resolved} in /etc/hosts"


def _find_interface(measured: NetworkMeasured, ip: str) -> str:
    facts = measured.find_facts(ip)
    own = facts.find_own() if facts else None
    return own.name if own else "<interface>"


def _find_culprits(trial: GroupTrial, errors: Sequence[str]) -> tuple[int, ...]:
    """The ranks that Gloo's monitored barrier names, else those that got less far, else all."""
    for error in errors:
        if match := _NAMED_RANKS.search(error):
            numbers = [int(number) for number in match[1].split(",")]
            return tuple(trial.ranks[number] for number in numbers if number < len(trial.ranks))
    return trial.list_behind() or trial.ranks


def needs_no_peer_access(measured: NetworkMeasured) -> tuple[GroupTrial, ...]:
    """The tensor-parallel groups that hang or get wrong values as they are, and come through without peer access."""
    return tuple(
        trial
        for trial in measured.trials
        if not trial.has_passed
        and (other := measured.find_trial(trial.name + WITHOUT_PEER_ACCESS)) is not None
        and other.has_passed
    )


def judge_nccl(measured: NetworkMeasured) -> Iterator[Finding]:
    """NCCL in each tensor-parallel group and over all ranks."""
    curable = needs_no_peer_access(measured)
    for trial in curable:
        place = measured.find_ip(trial.ranks[0])
        wrong = "delivers wrong values" if trial.list_wrong() else "hangs"
        yield Finding(
            place,
            f"peer access between GPUs {wrong} ({', '.join(measured.describe_rank(rank) for rank in trial.ranks)})",
            "set for this launch: NCCL_P2P_DISABLE=1 and engine.disable_custom_all_reduce; for good, turn off IOMMU "
            "and ACS in the BIOS, or keep both in the cluster file and the launch file",
            "warning",
        )
    for trial in measured.trials:
        if trial.has_passed or trial in curable or trial.name == "gloo" or trial.name.endswith(WITHOUT_PEER_ACCESS):
            continue
        yield from list(_judge_lost(measured, trial)) or [_explain_nccl(measured, trial)]
    if curable and (everyone := measured.find_trial("nccl")) is not None and everyone.has_passed:
        return
    yield from _judge_network(measured)


def _explain_nccl(measured: NetworkMeasured, trial: GroupTrial) -> Finding:
    logs = trial.read_logs()
    hung = tuple(rank for rank, log in logs.items() if log.has_started and not log.is_complete)
    wrong = trial.list_wrong()
    ranks = wrong or trial.list_behind() or hung or trial.ranks
    named = ", ".join(measured.describe_rank(rank) for rank in ranks)
    warnings = [line for rank in ranks for line in logs[rank].warnings]
    errors = [one.error.splitlines()[0] for one in trial.results if one.error]
    words = next((f": {line.partition('NCCL WARN ')[2][:160]}" for line in warnings), None)
    words = words or next((f": {line[:160]}" for line in errors), "")
    ends = "s" if len(ranks) == 1 else ""
    what = f"receive{ends} wrong values" if wrong else f"{'hang' if trial.has_hung else 'fail'}{ends} in NCCL"
    interfaces = ", ".join(dict.fromkeys(name for log in logs.values() for name in log.interfaces))
    used = f" (over {interfaces})" if interfaces else ""
    where = measured.find_ip(ranks[0])
    known = find_heaviest([*warnings, *errors])
    nodes = dict.fromkeys(measured.find_ip(rank) for rank in ranks)
    fixes = _choose_interfaces(measured, nodes, "NCCL_SOCKET_IFNAME")
    if known is not None and not known.signature.is_symptom:
        fixes = [*fixes[: len(fixes) * (known.signature.key in _OF_SOCKETS)], known.fix]
    else:
        fixes.append("`NCCL_DEBUG=INFO` in engine's environment shows more")
    return Finding(where, f"{named} {what}{used}{words}", "; ".join(fixes))


def _choose_interfaces(measured: NetworkMeasured, nodes: Iterable[str], variable: str) -> list[str]:
    """What to do on the nodes whose variable does not name the interface that has their address."""
    return [
        f"start Ray on {ip} with {variable}={_find_interface(measured, ip)}"
        for ip in nodes
        if not measured.uses_own_interface(ip, variable)
    ]


def _judge_network(measured: NetworkMeasured) -> Iterator[Finding]:
    """Sockets although the hosts have InfiniBand, with the first cause that holds."""
    trial = measured.find_trial("nccl")
    if trial is None:
        return
    for rank, log in trial.read_logs().items():
        ip = measured.find_ip(rank)
        facts = measured.find_facts(ip)
        if facts is None or not facts.infiniband or log.network != "Socket":
            continue
        why, fix = _explain_sockets(log, facts)
        yield Finding(ip, f"NCCL uses sockets though the host has {', '.join(facts.infiniband)}: {why}", fix, "warning")
        return


def _explain_sockets(log: NcclFacts, facts: NodeNetwork) -> tuple[str, str]:
    """The first cause that holds, and what to do."""
    remove = "remove it from the environment that Ray starts with, and from /etc/nccl.conf"
    if (value := log.settings.get("NCCL_IB_DISABLE", "0")) != "0":
        return f"NCCL_IB_DISABLE={value} is set", remove
    if (value := log.settings.get("NCCL_NET", "")).lower() == "socket":
        return f"NCCL_NET={value} is set", remove
    if not facts.can_use_infiniband:
        return (
            "the container has no /dev/infiniband",
            "add `--device /dev/infiniband --cap-add IPC_LOCK` to docker.run_options, then `raylaunch down` and `up`",
        )
    if log.has_no_library:
        return "the image has no libibverbs", "an image with Debian's libibverbs1 and ibverbs-providers in it"
    if (wanted := log.settings.get("NCCL_IB_HCA")) and not find_named(facts.infiniband, wanted):
        return (
            f"NCCL_IB_HCA={wanted} names none of them",
            f"start Ray on {facts.node_ip} with NCCL_IB_HCA={','.join(facts.infiniband)}",
        )
    if log.unopened:
        return (
            f"NCCL cannot open {', '.join(log.unopened)}",
            "`ls -l /dev/infiniband` in the container: the user needs to write there; `--cap-add IPC_LOCK` in "
            "docker.run_options; the image's ibverbs-providers must fit the host's driver",
        )
    if log.has_no_device:
        if all(name.startswith(_OF_EFA) for name in facts.infiniband):
            return "NCCL finds no device there: EFA works through a plugin alone", "an image with aws-ofi-nccl in it"
        return (
            "NCCL finds no device there",
            "`ibv_devinfo` in the container must list an active port; where it lists none, the image lacks "
            "ibverbs-providers",
        )
    return "NCCL gives no reason", "`NCCL_DEBUG=INFO` shows what NET/IB reports"


def judge_hops(hops: Sequence[HopMeasured]) -> Iterator[Finding]:
    """Hops that cost much of the stage they feed; only these thresholds, from the model's own sizes, stop a start."""
    for hop in hops:
        if hop.share is None or hop.share < HOP_WARN:
            continue
        yield Finding(
            hop.source,
            f"a prefill chunk takes {hop.prefill_s * 1e3:,.0f} ms from stage {hop.stage} to {hop.stage + 1} "
            f"({hop.target}), {hop.share:.0%} of the {(hop.stage_s or 0) * 1e3:,.0f} ms that the stage computes",
            "a faster link, fewer pipeline stages, or a model that fits one node; --force starts it as it is",
            "error" if hop.share >= HOP_REFUSE else "warning",
        )
