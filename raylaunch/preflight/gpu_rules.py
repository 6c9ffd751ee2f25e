"""Rules for the GPUs that Ray was given: as many as it has registered, equal, free, with a driver for this PyTorch.

Other GPUs of a machine belong to others: they are not counted, judged or advised on.
"""

from collections.abc import Iterator, Mapping, Sequence

from raylaunch.node.facts import NodeFacts
from raylaunch.node.nvidia_codes import CUDA_12_IMAGES, OLDEST_DRIVER
from raylaunch.node.nvml import DriverFacts, NodeGpu
from raylaunch.node.visible_gpus import GpuSelection, select_gpus, split_names
from raylaunch.preflight.findings import Finding
from raylaunch.preflight.machine_rules import choose_reference, describe_values
from raylaunch.preflight.requirements import CheckRequest

_MIB, _GIB = 1 << 20, 1 << 30
_UNEXPLAINED_BYTES = 2 * _GIB
"""More than a driver uses itself (0.3 to 0.7 GiB on 24 to 141 GB cards)."""
_NVML_FIXES = (
    (
        "version mismatch",
        "the driver was updated under a running kernel module: reboot that machine (or unload and load the module)",
    ),
    (
        "unknown error",
        "the container lost its GPUs (a daemon-reload on the host does that): restart the container; for good, "
        'docker\'s "exec-opts": ["native.cgroupdriver=cgroupfs"]',
    ),
    (
        "not found",
        "start the container with --gpus all (nvidia-container-toolkit on the host), or install the driver",
    ),
    ("driver not loaded", "load the driver on the host: modprobe nvidia; `nvidia-smi` there must answer first"),
    ("permission", "the devices /dev/nvidia* must be open to the user that Ray runs as"),
    ("lost", "the GPU fell off the bus: `dmesg | grep -i xid`; power-cycle the machine"),
)


def judge_gpus(facts: Sequence[NodeFacts], request: CheckRequest) -> Iterator[Finding]:
    """Findings on GPUs and driver; none for logical GPUs."""
    if request.logical_gpus:
        return
    for node in facts:
        if node.driver is None:
            continue
        if node.driver.error:
            yield Finding(node.node_ip, f"NVML does not answer: {node.driver.error}", _fix_driver(node.driver))
            continue
        yield from _judge_count(node, request)
        yield from _judge_driver(node)
        for gpu in list_gpus(node, request):
            yield from _judge_gpu(node, gpu, request)
    yield from _judge_alike({node.node_ip: gpus for node in facts if (gpus := list_gpus(node, request))})


def list_gpus(node: NodeFacts, request: CheckRequest) -> list[NodeGpu]:
    """The GPUs of a node that this launch uses, in the order in which Ray counts them.

    Those that Ray reserved for it, where that is known; else the first of those that Ray may use. Empty where NVML does
    not answer.
    """
    found, gpus = _find_visible(node), node.driver.gpus if node.driver else ()
    reserved = request.reserved_gpus.get(node.node_ip)
    if reserved is not None:
        chosen = select_gpus(reserved, [(gpu.index, gpu.uuid) for gpu in gpus]).places
    else:
        chosen = found.places[: request.gpus_per_node]
    return [gpus[place] for place in chosen]


def list_memory(facts: Sequence[NodeFacts], request: CheckRequest) -> list[list[tuple[str, int]]]:
    """Name and usable bytes of the GPUs of each node that this launch uses."""
    return [[(gpu.name, gpu.usable_bytes) for gpu in list_gpus(node, request)] for node in facts]


def _find_visible(node: NodeFacts) -> GpuSelection:
    """The GPUs of a node that its CUDA_VISIBLE_DEVICES leaves to Ray."""
    gpus = node.driver.gpus if node.driver else ()
    value = node.environment.get("CUDA_VISIBLE_DEVICES")
    if value is None:
        return GpuSelection(tuple(range(len(gpus))))
    return select_gpus(split_names(value), [(gpu.index, gpu.uuid) for gpu in gpus])


def _fix_driver(driver: DriverFacts) -> str:
    return "on that node: pip install nvidia-ml-py" if driver.lacks_binding else _fix_nvml(driver.error)


def _fix_nvml(error: str) -> str:
    return next(
        (fix for word, fix in _NVML_FIXES if word in error.lower()), "`nvidia-smi` on that node must answer first"
    )


def _judge_count(node: NodeFacts, request: CheckRequest) -> Iterator[Finding]:
    assert node.driver is not None
    visible, value = _find_visible(node), node.environment.get("CUDA_VISIBLE_DEVICES")
    if len(visible.places) < request.gpus_per_node and value is not None:
        names = f"; the driver shows no {', '.join(visible.unknown)}" if visible.unknown else ""
        yield Finding(
            node.node_ip,
            f"Ray has {request.gpus_per_node} GPUs registered, its CUDA_VISIBLE_DEVICES ({value}) names "
            f"{len(visible.places)} of the driver's {len(node.driver.gpus)}{names}",
            "`nvidia-smi -L` there lists them; restart Ray with another CUDA_VISIBLE_DEVICES, or without it",
        )
    elif (count := len(node.driver.gpus)) < request.gpus_per_node:
        yield Finding(
            node.node_ip,
            f"Ray has {request.gpus_per_node} GPUs registered, the driver shows {count}",
            f"`nvidia-smi -L` there shows which; restart Ray with --num-gpus={count} and lower cluster.gpus_per_node, "
            "or start the container with --gpus all",
        )


def _judge_driver(node: NodeFacts) -> Iterator[Finding]:
    """The driver runs the CUDA that PyTorch was built for.

    A driver runs every minor version of a CUDA major from the first driver branch of that major on. With a cuda-compat
    package older drivers do so on data centre cards; NVML then reports the newer CUDA, so that is checked first.
    """
    driver = node.driver
    assert driver is not None
    if node.torch_cuda is None:
        if "torch" in node.packages:
            yield Finding(
                node.node_ip,
                f"PyTorch {node.packages['torch']} is built without CUDA",
                f"on {node.node_ip}: pip install 'raylaunch[vllm]' in a new environment, or use the vLLM image",
            )
        return
    wanted = tuple(int(part) for part in node.torch_cuda.split("."))
    if driver.cuda_version is None or driver.cuda_version[0] >= wanted[0]:
        return
    oldest = OLDEST_DRIVER.get(wanted[0])
    yield Finding(
        node.node_ip,
        f"driver {driver.driver_version} supports CUDA up to {driver.cuda_version[0]}.{driver.cuda_version[1]}, "
        f"PyTorch {node.packages.get('torch', '')} is built for CUDA {node.torch_cuda} (it would fail with CUDA error "
        "803 or 804)",
        (f"update the driver to {oldest} or newer" if oldest else "update the driver")
        + f", or use a vLLM built for CUDA {driver.cuda_version[0]}"
        + (f" ({CUDA_12_IMAGES})" if driver.cuda_version[0] == 12 else ""),
    )


def _judge_gpu(node: NodeFacts, gpu: NodeGpu, request: CheckRequest) -> Iterator[Finding]:
    where = f"GPU {gpu.index}"
    if gpu.error:
        yield Finding(node.node_ip, f"{where} does not answer: {gpu.error}", _fix_nvml(gpu.error))
        return
    wanted = int(gpu.total_bytes * request.gpu_memory_utilization)
    too_little = gpu.free_bytes < wanted
    free = (
        f"; vLLM wants {wanted / _GIB:.1f} GiB of {gpu.total_bytes / _GIB:.1f}, {gpu.free_bytes / _GIB:.1f} are free"
        if too_little
        else ""
    )
    lower = f"lower engine.gpu_memory_utilization below {max(0.0, gpu.free_bytes / gpu.total_bytes):.2f}"
    if gpu.processes:
        holders = ", ".join(
            f"pid {held.pid}{f' ({held.name})' if held.name else ''} holds "
            + (f"{held.used_bytes / _MIB:,.0f} MiB" if held.used_bytes is not None else "memory")
            for held in gpu.processes
        )
        pids = " ".join(str(held.pid) for held in gpu.processes)
        yield Finding(
            node.node_ip,
            f"{where} is used by others: {holders}{free}",
            f"on {node.node_ip}: kill {pids}, if they are leftovers; else {lower}",
            "error" if too_little else "warning",
            is_transient=True,
        )
    elif gpu.used_bytes > _UNEXPLAINED_BYTES:
        yield Finding(
            node.node_ip,
            f"{gpu.used_bytes / _MIB:,.0f} MiB of {where} are held by processes outside this container{free}",
            f"on the host of {node.node_ip}: `nvidia-smi` names them; stop them, or {lower}",
            "error" if too_little else "warning",
            is_transient=True,
        )


def _judge_alike(nodes: Mapping[str, Sequence[NodeGpu]]) -> Iterator[Finding]:
    """All cards are equal: the slowest sets the speed, the smallest the size of the KV cache."""
    if not nodes:
        return
    values = {node: _describe_cards(gpus) for node, gpus in nodes.items()}
    reference = choose_reference([*values.values()])
    for node in (node for node, cards in values.items() if cards != reference):
        yield Finding(
            node,
            f"its GPUs are {values[node]}, unlike other nodes' ({describe_values(values)})",
            "acceptable, but every rank waits for the slowest card, and the KV cache is as large as on the smallest",
            "warning",
        )
    for node, gpus in nodes.items():
        if len(cards := {_describe_card(gpu) for gpu in gpus if not gpu.error}) > 1:
            yield Finding(
                node,
                f"its GPUs differ: {', '.join(sorted(cards))}",
                "choose equal ones with CUDA_VISIBLE_DEVICES before Ray starts there",
                "warning",
            )


def _describe_cards(gpus: Sequence[NodeGpu]) -> str:
    return " + ".join(sorted({_describe_card(gpu) for gpu in gpus if not gpu.error}))


def _describe_card(gpu: NodeGpu) -> str:
    return f"{gpu.name} {gpu.total_bytes / _GIB:.0f} GiB"
