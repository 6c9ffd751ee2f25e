"""The hosts' GPUs before any container uses them: number, kind, free memory, and a driver for the image's CUDA."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from raylaunch.base.text import printable
from raylaunch.config.cluster_file import ClusterFile
from raylaunch.explain.signatures import find
from raylaunch.node.nvidia_codes import CUDA_12_IMAGES, OLDEST_DRIVER
from raylaunch.provision.container import runtime_of
from raylaunch.provision.doctor.docker_rules import wants_gpus
from raylaunch.provision.doctor.gather import HostFacts
from raylaunch.provision.doctor.probe_facts import Gpu
from raylaunch.provision.doctor.verdicts import Check, Verdict

_CHECKS = ("GPUs", "driver", "GPU memory", "peer access")
_UNEXPLAINED_MIB = 2048
"""More than a driver reserves (0.3 to 0.7 GiB on 24 to 141 GB cards)."""
_INSTALL_DRIVER = {
    "debian": "{sudo}apt-get install -y nvidia-driver-{branch}-server && {sudo}reboot",
    "rhel": "{sudo}dnf module install -y nvidia-driver:{branch}-dkms && {sudo}reboot",
    "suse": "{sudo}zypper install -y nvidia-open-driver-G06-signed-cuda-kmp-default && {sudo}reboot",
    "arch": "{sudo}pacman -S --noconfirm nvidia-open && {sudo}reboot",
    "other": "install NVIDIA's driver {branch}, and reboot",
}
_OLD_IMAGE = "vllm/vllm-openai:v0.19.0"
_FIRST_CUDA_13 = 20
"""Minor release of vLLM whose image was the first with CUDA 13."""
_NO_PEER = re.compile(r"RTX 40[5-9]0")


def judge_gpus(hosts: Sequence[HostFacts], cluster: ClusterFile) -> Iterator[Verdict]:
    """Verdicts on GPUs; "not checked" for a cluster whose containers ask for none."""
    if not wants_gpus(cluster):
        for facts in hosts:
            yield Check("GPUs", facts.address).unknown("docker.run_options ask for none (--gpus)")
        return
    with_gpus = [facts for facts in hosts if facts.gpus.gpus]
    for facts in hosts:
        if facts not in with_gpus:
            yield _explain_none(facts)
            yield from (Check(name, facts.address).unknown("nvidia-smi shows no GPU") for name in _CHECKS[1:])
    yield from _judge_alike(with_gpus)
    for facts in with_gpus:
        yield _judge_driver(facts, cluster)
        yield _judge_memory(facts)
        yield _judge_peers(facts, cluster)


def guess_cuda_major(image: str) -> int | None:
    """CUDA of an image by its name and tag (vLLM's own, or one of ours on it); None where unknown."""
    name, _, tag = image.rpartition(":")
    found = re.match(r"v?0\.(\d+)", tag)
    if found is None or not re.search(r"vllm|raylaunch", name):
        return None
    return 13 if int(found[1]) >= _FIRST_CUDA_13 else 12


def _explain_none(facts: HostFacts) -> Verdict:
    check, sudo = Check("GPUs", facts.address), facts.system.sudo
    install = _INSTALL_DRIVER[facts.system.family].format(sudo=sudo, branch=OLDEST_DRIVER[13])
    if facts.gpus.problem == "missing":
        return check.failed("there is no nvidia-smi: NVIDIA's driver is not installed", install)
    message = printable(facts.gpus.problem.splitlines()[0]) if facts.gpus.problem else "it lists none"
    if finding := find(message):
        return check.failed(finding.cause, finding.fix)
    return check.failed(f"nvidia-smi fails: {message}", f"{sudo}modprobe nvidia && nvidia-smi; else {install}")


def _judge_alike(hosts: Sequence[HostFacts]) -> Iterator[Verdict]:
    """As many on each host as on the host with most, and one kind of card."""
    most = max((len(facts.gpus.gpus) for facts in hosts), default=0)
    cards = Counter(_name_cards(facts.gpus.gpus) for facts in hosts)
    for facts in hosts:
        count, card, check = len(facts.gpus.gpus), _name_cards(facts.gpus.gpus), Check("GPUs", facts.address)
        if count < most:
            yield check.failed(
                f"{count} x {card}: {most - count} fewer than the other hosts' {most}",
                "on that host: nvidia-smi -L lists them, `dmesg -T | grep -i xid` shows why one is missing; a power "
                "cycle brings a lost one back",
            )
        elif card != cards.most_common(1)[0][0]:
            yield check.warning(
                f"{count} x {card}, unlike the other hosts' {cards.most_common(1)[0][0]}: all wait for the slowest, "
                "and the smallest sets the KV cache"
            )
        else:
            yield check.ok(f"{count} x {card}")


def _name_cards(gpus: Sequence[Gpu]) -> str:
    return " + ".join(sorted({f"{gpu.name} {gpu.total_mib / 1024:.0f} GiB" for gpu in gpus}))


def _judge_driver(facts: HostFacts, cluster: ClusterFile) -> Verdict:
    """The driver's branch against the CUDA of the image: by the image's environment, else by its tag."""
    check, driver, image = Check("driver", facts.address), facts.gpus.gpus[0].driver, facts.objects.image
    variable = image.cuda.partition(".")[0] if image and image.cuda else ""
    major = int(variable) if variable.isdigit() else guess_cuda_major(cluster.image)
    branch = driver.partition(".")[0]
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
    install = _INSTALL_DRIVER[facts.system.family].format(sudo=facts.system.sudo, branch=needed)
    other = f"; or, with this driver, docker.image: {_OLD_IMAGE} ({CUDA_12_IMAGES})" if runs == 12 else ""
    return check.failed(
        f"driver {driver} runs CUDA {runs} at most; {cluster.image} carries CUDA {major}, which needs {needed} or "
        "newer (it would fail with CUDA error 803 or 804)",
        f"{install}{other}",
    )


def _judge_memory(facts: HostFacts) -> Verdict:
    check, container = Check("GPU memory", facts.address), facts.objects.container
    if container and container.runs_ray:
        return check.unknown("the cluster runs already: the memory in use is its own")
    held = [gpu for gpu in facts.gpus.gpus if gpu.used_mib > _UNEXPLAINED_MIB]
    holders = dict(facts.gpus.holders)
    named = [(gpu.index, holders[gpu.uuid]) for gpu in facts.gpus.gpus if gpu.uuid in holders]
    if not held and not named:
        return check.ok("free")
    pids = sorted({pid for _, holder in named for pid in re.findall(r"pid (\d+)", holder)})
    what = "; ".join(f"GPU {index}: {holder}" for index, holder in named[:3])
    what = what or "; ".join(f"GPU {gpu.index}: {gpu.used_mib} MiB" for gpu in held[:3])
    more = max(len(named), len(held)) - 3
    fix = f"if they are leftovers: {facts.system.sudo}kill {' '.join(pids)}" if pids else ""
    return check.failed(
        f"held by other programs: {what}" + (f", and {more} more GPUs" if more > 0 else ""),
        fix or "nvidia-smi on that host names them; stop them, or wait",
    )


def _judge_peers(facts: HostFacts, cluster: ClusterFile) -> Verdict:
    """RTX 40-series cards: the driver reports peer access that does not work, and NCCL and vLLM's kernel hang."""
    check = Check("peer access", facts.address)
    cards = sorted({gpu.name for gpu in facts.gpus.gpus if _NO_PEER.search(gpu.name)})
    if not cards:
        return check.ok("no GPU with known-broken peer access")
    if cluster.find_variable("NCCL_P2P_DISABLE") == "1":
        return check.ok(f"{cards[0]}: NCCL_P2P_DISABLE=1 is set")
    return check.warning(
        f"{cards[0]}: the driver reports peer access that these cards do not have, and NCCL hangs",
        "add `- -e NCCL_P2P_DISABLE=1` to docker.run_options, and disable_custom_all_reduce: true to engine: in the "
        "launch file",
    )
