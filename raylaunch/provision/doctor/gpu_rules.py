"""The hosts' GPUs before any container uses them: number, kind, free memory, and a driver for the image's CUDA."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from raylaunch.base.text import printable
from raylaunch.base.versions import VLLM
from raylaunch.config.cluster_file import ClusterFile
from raylaunch.config.gpu_request import GpuRequest
from raylaunch.explain.signatures import find
from raylaunch.node.nvidia_codes import (
    BLACKWELL_CUDA,
    CUDA_12_IMAGES,
    OLDEST_DRIVER,
    is_blackwell,
    is_blackwell_device,
)
from raylaunch.provision.container import runtime_of
from raylaunch.provision.doctor.gather import HostFacts
from raylaunch.provision.doctor.probe_facts import Gpu
from raylaunch.provision.doctor.verdicts import Check, Verdict

_CHECKS = ("GPUs", "driver", "GPU memory", "peer access")
_UNEXPLAINED_MIB = 2048
"""More than a driver reserves (0.3 to 0.7 GiB on 24 to 141 GB cards)."""
_INSTALL_DRIVER = {
    "debian": "{sudo}apt-get install -y nvidia-driver-{branch}-server{open} && {sudo}reboot",
    "rhel": "{sudo}dnf module install -y nvidia-driver:{branch}{open}-dkms && {sudo}reboot",
    "suse": "{sudo}zypper install -y nvidia-open-driver-G06-signed-cuda-kmp-default && {sudo}reboot",
    "arch": "{sudo}pacman -S --noconfirm nvidia-open && {sudo}reboot",
    "other": "install NVIDIA's driver {branch}{open}, and reboot",
}
"""With {open} "-open" for Blackwell cards, which need the open kernel modules."""
_OLD_IMAGE = "vllm/vllm-openai:v0.19.0"
_FIRST_CUDA_13 = 20
"""Minor release of vLLM whose image was the first with CUDA 13."""
_FIRST_SM_120 = 10
"""Minor release of vLLM whose image was the first with kernels for sm_120 (RTX 50, RTX PRO Blackwell)."""
_PEER_BY_PCI = re.compile(r"RTX 50[5-9]0|RTX PRO \d000")
"""Blackwell cards without NVLink, whose peers talk over PCIe."""


@dataclass(frozen=True, slots=True)
class GivenGpus:
    """The GPUs of a host that its container is given and Ray takes; the others are not judged."""

    facts: HostFacts
    request: GpuRequest
    gpus: tuple[Gpu, ...]
    missing: tuple[str, ...]
    """Names in run_options that no GPU of the host has."""

    @classmethod
    def of(cls, facts: HostFacts, cluster: ClusterFile) -> "GivenGpus":
        """By the cluster file and nvidia-smi."""
        request, listed = cluster.gpu_request_of(facts.address), facts.gpus.gpus
        found = request.select([(gpu.index, gpu.uuid) for gpu in listed])
        return cls(facts, request, tuple(listed[place] for place in found.places), found.unknown)

    @property
    def is_blackwell(self) -> bool:
        """Whether one of the host's cards needs the open kernel modules and CUDA 12.8."""
        named = any(is_blackwell(gpu.name) for gpu in self.facts.gpus.gpus)
        return named or any(is_blackwell_device(gpu.device) for gpu in self.facts.hardware.gpus)


def judge_gpus(hosts: Sequence[HostFacts], cluster: ClusterFile) -> Iterator[Verdict]:
    """Verdicts on GPUs; "not checked" for hosts whose containers ask for none."""
    given = []
    for facts in hosts:
        if not cluster.gpu_request_of(facts.address).asks:
            yield Check("GPUs", facts.address).unknown("docker.run_options ask for none (--gpus)")
        else:
            given.append(GivenGpus.of(facts, cluster))
    for one in given:
        if not one.facts.gpus.gpus:
            yield _explain_none(one)
            yield from (Check(name, one.facts.address).unknown("nvidia-smi shows no GPU") for name in _CHECKS[1:])
    with_gpus = [one for one in given if one.facts.gpus.gpus]
    yield from _judge_counts([one for one in with_gpus if not one.request.unknown])
    for one in with_gpus:
        yield _judge_driver(one, cluster)
        if one.request.unknown:
            what = f"`{one.request.unknown}` in docker.run_options: only that host knows which GPUs it means"
            yield from (Check(name, one.facts.address).unknown(what) for name in ("GPUs", "GPU memory", "peer access"))
        else:
            yield _judge_memory(one)
            yield _judge_peers(one, cluster)


def guess_cuda_major(image: str) -> int | None:
    """CUDA of an image by its name and tag (vLLM's own, or one of ours on it); None where unknown."""
    minor = _read_minor(image)
    return None if minor is None else 13 if minor >= _FIRST_CUDA_13 else 12


def _read_minor(image: str) -> int | None:
    """32 for an image of vLLM 0.32, by its name and tag."""
    name, _, tag = image.rpartition(":")
    found = re.match(r"v?0\.(\d+)", tag)
    return int(found[1]) if found and re.search(r"vllm|raylaunch", name) else None


def _explain_none(one: GivenGpus) -> Verdict:
    facts = one.facts
    check, sudo = Check("GPUs", facts.address), facts.system.sudo
    install = _make_install(one, OLDEST_DRIVER[13])
    if facts.gpus.problem == "missing":
        return check.failed("there is no nvidia-smi: NVIDIA's driver is not installed", install)
    message = printable(facts.gpus.problem.splitlines()[0]) if facts.gpus.problem else "it lists none"
    if one.is_blackwell and "No devices" in message:
        return check.failed(
            f"nvidia-smi: {message}: Blackwell cards work with NVIDIA's open kernel modules only", install
        )
    if finding := find(message):
        return check.failed(finding.cause, finding.fix)
    return check.failed(f"nvidia-smi fails: {message}", f"{sudo}modprobe nvidia && nvidia-smi; else {install}")


def _make_install(one: GivenGpus, branch: int) -> str:
    system = one.facts.system
    return _INSTALL_DRIVER[system.family].format(
        sudo=system.sudo, branch=branch, open="-open" if one.is_blackwell else ""
    )


def _judge_counts(hosts: Sequence[GivenGpus]) -> Iterator[Verdict]:
    """The GPUs that run_options name exist, as many on each host as on the host with most, and one kind of card."""
    most = max((len(one.gpus) for one in hosts), default=0)
    cards = Counter(_name_cards(one.gpus) for one in hosts)
    for one in hosts:
        count, card, check = len(one.gpus), _name_cards(one.gpus), Check("GPUs", one.facts.address)
        listed, on_bus = len(one.facts.gpus.gpus), len(one.facts.hardware.gpus)
        if one.missing:
            yield check.failed(
                f"docker.run_options give its container GPU {', '.join(one.missing)}, which this host does not have: "
                f"its driver lists {listed}",
                "nvidia-smi -L on that host lists them; correct --gpus in docker.run_options (the same for all hosts, "
                "or in head_run_options and worker_run_options)",
            )
        elif count < most and listed == on_bus:
            yield check.warning(
                f"{count} x {card}, other hosts have {most}: all GPUs on its PCI bus work",
                f"set cluster.gpus_per_node of the launch to {count} or fewer, or give every container as many "
                f"(--gpus {count})",
            )
        elif count < most:
            yield check.failed(
                f"{count} x {card}: {most - count} fewer than the other hosts' {most}",
                "on that host: nvidia-smi -L lists them, `dmesg -T | grep -i xid` shows why one is missing; a power "
                f"cycle brings a lost one back (if it has no more, --gpus {count} gives every container as many)",
            )
        elif card != cards.most_common(1)[0][0]:
            yield check.warning(
                f"{count} x {card}, unlike the other hosts' {cards.most_common(1)[0][0]}: all wait for the slowest, "
                "and the smallest sets the KV cache"
            )
        else:
            yield check.ok(f"{count} x {card}" + (f", of {listed} GPUs" if count < listed else ""))


def _name_cards(gpus: Sequence[Gpu]) -> str:
    return " + ".join(sorted({f"{gpu.name} {gpu.total_mib / 1024:.0f} GiB" for gpu in gpus}))


def _judge_driver(one: GivenGpus, cluster: ClusterFile) -> Verdict:
    """The driver's branch against the CUDA of the image: by the image's environment, else by its tag."""
    facts = one.facts
    check, driver, image = Check("driver", facts.address), facts.gpus.gpus[0].driver, facts.objects.image
    variable = image.cuda.partition(".")[0] if image and image.cuda else ""
    major = int(variable) if variable.isdigit() else guess_cuda_major(cluster.image)
    branch = driver.partition(".")[0]
    if one.is_blackwell and (too_old := _find_old_cuda(facts, cluster.image)):
        return check.failed(
            f"{cluster.image} carries {too_old}, which has no kernels for these cards (Blackwell, CUDA 12.8 or newer): "
            'it would fail with "no kernel image is available for execution on the device"',
            f"set docker.image to a newer one, as vllm/vllm-openai:v{VLLM}",
        )
    if major is None or major not in OLDEST_DRIVER or not branch.isdigit():
        trial = runtime_of(cluster).run_on_gpus.format(image=cluster.image, program="nvidia-smi")
        return check.unknown(
            f"driver {driver}: neither the tag of {cluster.image} nor its environment names its CUDA version",
            f"{trial} shows whether they fit",
        )
    needed = OLDEST_DRIVER[major]
    if int(branch) >= needed:
        return check.ok(f"{driver}, and CUDA {major} needs {needed} or newer")
    runs = max((cuda for cuda, oldest in OLDEST_DRIVER.items() if oldest <= int(branch)), default=0)
    other = f"; or, with this driver, docker.image: {_OLD_IMAGE} ({CUDA_12_IMAGES})" if runs == 12 else ""
    return check.failed(
        f"driver {driver} runs CUDA {runs} at most; {cluster.image} carries CUDA {major}, which needs {needed} or "
        "newer (it would fail with CUDA error 803 or 804)",
        f"{_make_install(one, needed)}{other}",
    )


def _find_old_cuda(facts: HostFacts, image: str) -> str:
    """The CUDA or vLLM of an image that is too old for Blackwell cards; "" where it is not, or unknown."""
    known = facts.objects.image.cuda if facts.objects.image else None
    if known and (found := re.match(r"(\d+)\.(\d+)", known)):
        return f"CUDA {known}" if (int(found[1]), int(found[2])) < BLACKWELL_CUDA else ""
    minor = _read_minor(image)
    return f"vLLM 0.{minor}" if minor is not None and minor < _FIRST_SM_120 else ""


def _judge_memory(one: GivenGpus) -> Verdict:
    facts = one.facts
    check, container = Check("GPU memory", facts.address), facts.objects.container
    if container and container.runs_ray:
        return check.unknown("the cluster runs already: the memory in use is its own")
    held = [gpu for gpu in one.gpus if gpu.used_mib > _UNEXPLAINED_MIB]
    named = [(gpu.index, holder) for gpu in one.gpus for uuid, holder in facts.gpus.holders if uuid == gpu.uuid]
    if not held and not named:
        return check.ok("free")
    pids = sorted({pid for _, holder in named for pid in re.findall(r"pid (\d+)", holder)})
    what = "; ".join(f"GPU {index}: {holder}" for index, holder in named[:3])
    what = what or "; ".join(f"GPU {gpu.index}: {gpu.used_mib} MiB" for gpu in held[:3])
    more = max(len({index for index, _ in named}), len(held)) - 3
    fix = f"if they are leftovers: {facts.system.sudo}kill {' '.join(pids)}" if pids else ""
    return check.failed(
        f"held by other programs: {what}" + (f", and {more} more GPUs" if more > 0 else ""),
        (fix or "nvidia-smi on that host names them; stop them, or wait")
        + "; to leave these GPUs to others, name the rest in docker.run_options: --gpus '\"device=...\"'",
    )


def _judge_peers(one: GivenGpus, cluster: ClusterFile) -> Verdict:
    """Cards whose peers talk over PCIe behind an IOMMU; whether peer access works is tried by `serve` and netcheck."""
    check, names = Check("peer access", one.facts.address), sorted({gpu.name for gpu in one.gpus})
    over_pci = [name for name in names if _PEER_BY_PCI.search(name)]
    translated = sorted({gpu.iommu for gpu in one.facts.hardware.gpus if gpu.iommu.startswith("DMA")})
    if not (over_pci and translated and len(one.gpus) > 1):
        return check.ok("`raylaunch serve` tries it before the load")
    if cluster.find_variable("NCCL_P2P_DISABLE") == "1":
        return check.ok(f"{over_pci[0]}: NCCL_P2P_DISABLE=1 is set")
    return check.warning(
        f"{over_pci[0]}: the IOMMU translates ({translated[0]}) between these cards, and NCCL may hang in peer access "
        "over PCIe",
        "turn the IOMMU off in the firmware, or add iommu=pt to the kernel's command line; else `raylaunch serve` "
        "turns peer access off for the launch where it fails",
    )
