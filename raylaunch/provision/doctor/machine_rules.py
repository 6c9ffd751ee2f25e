"""Room and time on every host: disk for image and model, memory, shared memory, the clock."""

import re
from collections.abc import Iterator, Sequence

from raylaunch.config.cluster_file import ClusterFile
from raylaunch.provision.doctor.gather import HostFacts
from raylaunch.provision.doctor.verdicts import Verdict, ok, red, unknown, warn

_GIB = 1 << 30
_IMAGE_GIB = 40
"""vLLM's image unpacked (about 30 GB), while its compressed layers still lie beside it."""
_SPARE_GIB = 2
"""For logs and what containers write, where the image is there."""
_RAM_RED_GIB, _RAM_PER_GPU_GIB = 4, 1
"""Ray and one engine worker; then each further worker. What lies below is told, not what is comfortable."""
_SHM_GIB = 1
"""Below this, NCCL and vLLM's message queues fail as with docker's own 64 MB."""
_CLOCK_WARN_S, _CLOCK_RED_S = 2.0, 30.0
"""Logs no longer line up; tokens and certificates are refused."""


def judge_machines(hosts: Sequence[HostFacts], cluster: ClusterFile, *, model_gb: float | None) -> Iterator[Verdict]:
    """Verdicts on what each host has room for.

    Args:
        model_gb: size of the model in 10^9 bytes; None leaves the room for it unchecked.
    """
    for facts in hosts:
        yield _judge_disk(facts)
        yield _judge_model_disk(facts, model_gb)
        yield _judge_memory(facts)
        yield _judge_shared_memory(facts, cluster)
        yield _judge_clock(facts)


def _judge_disk(facts: HostFacts) -> Verdict:
    disk, host = facts.docker.disk, facts.address
    if disk is None:
        return unknown("disk", host, "docker does not tell where it keeps images")
    needed = _SPARE_GIB if facts.objects.image else _IMAGE_GIB
    free = f"{disk.free / _GIB:.1f} GiB free for docker ({disk.place})"
    tmp = next((found for found in facts.disks if found.place == "/tmp"), None)
    if disk.free < needed * _GIB:
        purpose = "logs and containers" if facts.objects.image else "the image"
        return red(
            "disk",
            host,
            f"{free}: {purpose} need{'s' if purpose == 'the image' else ''} {needed} GiB",
            f"on that host: docker system prune shows what it can give back, {facts.system.sudo}du -xh --max-depth=2 / "
            "| sort -h | tail what else is large",
        )
    if tmp and tmp.free < tmp.total * 0.05:
        return red(
            "disk",
            host,
            f"/tmp is over 95 % full ({tmp.free / _GIB:.1f} GiB free): Ray stops storing objects there",
            f"on that host: {facts.system.sudo}du -xh --max-depth=1 /tmp | sort -h | tail",
        )
    return ok("disk", host, f"room for docker ({'at least' if facts.objects.image else 'more than'} {needed} GiB free)")


def _judge_model_disk(facts: HostFacts, model_gb: float | None) -> Verdict:
    disk = next((found for found in facts.disks if found.place not in ("/tmp", "/dev/shm")), None)
    if disk is None:
        return unknown("model disk", facts.address, "df did not tell")
    free = f"{disk.free / 1e9:.0f} GB free at {disk.place}"
    if model_gb is None:
        return unknown("model disk", facts.address, free, "say how large the model is: --model-gb 141")
    if disk.free < model_gb * 1e9:
        return red(
            "model disk",
            facts.address,
            f"{free}, the model has {model_gb:g} GB",
            "mount a larger disk there, or name another folder with -v in docker.run_options (if the model lies there "
            "already, leave --model-gb out)",
        )
    return ok("model disk", facts.address, f"room for the model's {model_gb:g} GB")


def _judge_memory(facts: HostFacts) -> Verdict:
    if facts.memory is None:
        return unknown("memory", facts.address, "/proc/meminfo could not be read")
    total, available = facts.memory
    what = f"{available / _GIB:.0f} GiB of {total / _GIB:.0f} available"
    wanted = _RAM_PER_GPU_GIB * max(1, len(facts.gpus.gpus))
    if available < _RAM_RED_GIB * _GIB:
        return red(
            "memory",
            facts.address,
            f"{what}: Ray and the engine's workers need {_RAM_RED_GIB} GiB at least",
            "on that host: ps -eo rss,pid,comm --sort=-rss | head shows who holds it",
        )
    if available < wanted * _GIB:
        return warn("memory", facts.address, f"{what}: tight for {len(facts.gpus.gpus)} engine workers")
    return ok("memory", facts.address, f"enough ({_RAM_RED_GIB} GiB at least)")


def _judge_shared_memory(facts: HostFacts, cluster: ClusterFile) -> Verdict:
    host = facts.address
    size = _read_size(cluster.find_option("--shm-size") or "")
    if cluster.find_option("--ipc") == "host":
        shm = next((disk for disk in facts.disks if disk.place == "/dev/shm"), None)
        if shm is None:
            return unknown("shared memory", host, "/dev/shm could not be measured")
        if shm.free < _SHM_GIB * _GIB:
            return red(
                "shared memory",
                host,
                f"/dev/shm has {shm.free / _GIB:.1f} GiB free",
                f"{facts.system.sudo}mount -o remount,size=50% /dev/shm",
            )
        return ok("shared memory", host, "the host's own /dev/shm")
    if size is None:
        return ok("shared memory", host, "Ray's launcher chooses (no --shm-size)")
    if facts.memory and size > facts.memory[0]:
        return red(
            "shared memory",
            host,
            f"--shm-size is {size / _GIB:.1f} GiB, the machine has {facts.memory[0] / _GIB:.1f} GiB of memory",
            "lower --shm-size in docker.run_options",
        )
    if size < _SHM_GIB * _GIB:
        return red(
            "shared memory", host, f"--shm-size is {size / _GIB:.2f} GiB", "docker.run_options: --shm-size=10.24g"
        )
    return ok("shared memory", host, f"--shm-size {size / _GIB:.2f} GiB")


def _read_size(text: str) -> float | None:
    """Bytes of docker's "10.24g", "512m", "64k" or "1000b"; None where nothing is said."""
    found = re.fullmatch(r"([\d.]+)([bkmg]?)b?", text.lower())
    return float(found[1]) * 1024 ** "bkmg".index(found[2] or "b") if found else None


def _judge_clock(facts: HostFacts) -> Verdict:
    if facts.network is None:
        return unknown("clock", facts.address, "no Python there that could tell the time to a second")
    ahead = facts.network.clock_ahead_s
    what = f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} this machine's clock"
    command = f"{facts.system.sudo}timedatectl set-ntp true"
    if abs(ahead) > _CLOCK_RED_S:
        return red("clock", facts.address, what, command, mend=command)
    if abs(ahead) > _CLOCK_WARN_S:
        return warn("clock", facts.address, what, command, mend=command)
    return ok("clock", facts.address, f"within {_CLOCK_WARN_S:.0f} s of this machine's")
