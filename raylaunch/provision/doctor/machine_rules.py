"""Every host's disk for image and model, memory, shared memory, and clock."""

import re
from collections.abc import Iterator, Sequence

from raylaunch.config.cluster_file import ClusterFile
from raylaunch.explain.signatures import find_heaviest
from raylaunch.provision.container import runtime_of
from raylaunch.provision.doctor.gather import HostFacts
from raylaunch.provision.doctor.gpu_rules import GivenGpus
from raylaunch.provision.doctor.verdicts import Check, Verdict

_GIB = 1 << 30
_IMAGE_GIB = 40
"""vLLM's image unpacked (about 30 GB), beside its compressed layers."""
_LAYER_GIB = 5
"""Ray and raylaunch on vLLM's image, and what building them writes."""
_RESERVE_GIB = 2
"""For logs and what containers write, where the image is present."""
_RAM_MIN_GIB, _RAM_PER_GPU_GIB = 4, 1
"""Ray and one engine worker; then each further worker. A limit for failure, not for comfort."""
_SHM_GIB = 1
"""Below this, NCCL and vLLM's message queues fail as with docker's default of 64 MB."""
_CLOCK_WARNING_S, _CLOCK_FAILED_S = 2.0, 30.0
"""Logs no longer line up; tokens and certificates are refused."""


def judge_machines(hosts: Sequence[HostFacts], cluster: ClusterFile, *, model_gb: float | None) -> Iterator[Verdict]:
    """Verdicts on what each host has room for.

    Args:
        model_gb: size of the model in 10^9 bytes; None leaves the room for it unchecked.
    """
    for facts in hosts:
        yield _judge_disk(facts, cluster)
        yield _judge_model_disk(facts, model_gb)
        yield _judge_memory(facts, len(GivenGpus.of(facts, cluster).gpus))
        yield _judge_shared_memory(facts, cluster)
        yield _judge_kernel(facts)
        yield _judge_clock(facts)


def _judge_disk(facts: HostFacts, cluster: ClusterFile) -> Verdict:
    check, disk, sudo = Check("disk", facts.address), facts.docker.disk, facts.system.sudo
    runtime = runtime_of(cluster)
    if disk is None:
        return check.unknown(f"{runtime.program} does not report where it keeps images")
    if facts.objects.image:
        needed, purpose = _RESERVE_GIB, "logs and containers need"
    elif facts.has_base_image:
        needed, purpose = _LAYER_GIB, "raylaunch's layer on vLLM's image needs"
    else:
        needed, purpose = _IMAGE_GIB, "the image needs"
    free = f"{disk.free / _GIB:.1f} GiB free for {runtime.program} ({disk.place})"
    tmp = next((found for found in facts.disks if found.place == "/tmp"), None)
    if disk.free < needed * _GIB:
        return check.failed(
            f"{free}: {purpose} {needed} GiB",
            f"on that host: {runtime.free_disk} shows what it can free, {sudo}du -xh --max-depth=2 / "
            "| sort -h | tail what else is large",
        )
    if tmp and tmp.free < tmp.total * 0.05:
        return check.failed(
            f"/tmp is over 95 % full ({tmp.free / _GIB:.1f} GiB free): Ray stops storing objects there",
            f"on that host: {sudo}du -xh --max-depth=1 /tmp | sort -h | tail",
        )
    least = "at least" if facts.objects.image else "more than"
    return check.ok(f"room for {runtime.program} ({least} {needed} GiB free)")


def _judge_model_disk(facts: HostFacts, model_gb: float | None) -> Verdict:
    check = Check("model disk", facts.address)
    # /tmp, the folder of models, /dev/shm; a volume of docker's own is no folder, and is on docker's disk.
    disk = facts.disks[1] if len(facts.disks) == 3 else facts.docker.disk if len(facts.disks) == 2 else None
    if disk is None:
        return check.unknown("df printed nothing for it")
    free = f"{disk.free / 1e9:.0f} GB free at {disk.place}"
    if model_gb is None:
        return check.unknown(free, "name the launch file too, or give the model's size: --model-gb 141")
    if disk.free < model_gb * 1e9:
        return check.failed(
            f"{free}, the model has {model_gb:g} GB",
            "mount a larger disk there, or set another folder with -v in docker.run_options (if the model is there "
            "already, leave --model-gb out)",
        )
    return check.ok(f"room for the model's {model_gb:g} GB")


def _judge_memory(facts: HostFacts, gpus: int) -> Verdict:
    check = Check("memory", facts.address)
    if facts.memory is None:
        return check.unknown("/proc/meminfo could not be read")
    total, available = facts.memory
    what = f"{available / _GIB:.0f} GiB of {total / _GIB:.0f} available"
    if available < _RAM_MIN_GIB * _GIB:
        return check.failed(
            f"{what}: Ray and the engine's workers need {_RAM_MIN_GIB} GiB at least",
            "on that host: ps -eo rss,pid,comm --sort=-rss | head shows what uses it",
        )
    if available < _RAM_PER_GPU_GIB * max(1, gpus) * _GIB:
        return check.warning(f"{what}: tight for {gpus} engine workers")
    return check.ok(f"enough ({_RAM_MIN_GIB} GiB at least)")


def _judge_shared_memory(facts: HostFacts, cluster: ClusterFile) -> Verdict:
    check = Check("shared memory", facts.address)
    if cluster.find_option("--ipc") == "host":
        shm = next((disk for disk in facts.disks if disk.place == "/dev/shm"), None)
        if shm is None:
            return check.unknown("/dev/shm could not be measured")
        if shm.free < _SHM_GIB * _GIB:
            grow = f"{facts.system.sudo}mount -o remount,size=50% /dev/shm"
            return check.failed(f"/dev/shm has {shm.free / _GIB:.1f} GiB free", grow)
        return check.ok("the host's own /dev/shm")
    size = _read_size(cluster.find_option("--shm-size") or "")
    if size is None:
        return check.ok("Ray's launcher chooses (no --shm-size)")
    if facts.memory and size > facts.memory[0]:
        return check.failed(
            f"--shm-size is {size / _GIB:.1f} GiB, the machine has {facts.memory[0] / _GIB:.1f} GiB of memory",
            "lower --shm-size in docker.run_options",
        )
    if size < _SHM_GIB * _GIB:
        return check.failed(f"--shm-size is {size / _GIB:.2f} GiB", "docker.run_options: --shm-size=10.24g")
    return check.ok(f"--shm-size {size / _GIB:.2f} GiB")


def _read_size(text: str) -> float | None:
    """Bytes of docker's "10.24g", "512m", "64k" or "1000b"; None for other text."""
    found = re.fullmatch(r"([\d.]+)([bkmg]?)b?", text.lower())
    return float(found[1]) * 1024 ** "bkmg".index(found[2] or "b") if found else None


def _judge_kernel(facts: HostFacts) -> Verdict:
    """By the signatures that `explain` has; what was since the host's start may be over, so it only warns."""
    check, section = Check("kernel", facts.address), facts.kernel
    if section.status != 0:
        return check.unknown("the kernel's log cannot be read", "sudo sysctl kernel.dmesg_restrict=0, or sudo -n dmesg")
    worst = find_heaviest(reversed(section.text.splitlines()), {"kernel", "docker"})
    if worst is None or worst.signature.is_symptom:
        return check.ok("its log has no fault of GPU, memory, PCIe or disk")
    sudo = facts.system.sudo
    return check.warning(f"since it was started: {worst.cause}", f"{worst.fix}; {sudo}dmesg -T shows when")


def _judge_clock(facts: HostFacts) -> Verdict:
    check = Check("clock", facts.address)
    if facts.network is None:
        return check.unknown("no Python there, which would report the time")
    ahead_s = facts.network.clock_ahead_s
    what = f"{abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} this machine's clock"
    command = f"{facts.system.sudo}timedatectl set-ntp true"
    if abs(ahead_s) > _CLOCK_FAILED_S:
        return check.failed(what, command, safe=True)
    if abs(ahead_s) > _CLOCK_WARNING_S:
        return check.warning(what, command, safe=True)
    return check.ok(f"within {_CLOCK_WARNING_S:.0f} s of this machine's")
