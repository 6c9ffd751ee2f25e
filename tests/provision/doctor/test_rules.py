"""Rules that no rig covers completely: other cards, clocks, links, distributions, running clusters."""

import json
import shlex
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest

from raylaunch.config.cluster_file import ClusterFile
from raylaunch.node.nvidia_codes import is_blackwell
from raylaunch.provision.doctor import probe_facts
from raylaunch.provision.doctor.diagnose import judge
from raylaunch.provision.doctor.gather import ClusterFacts, HostFacts
from raylaunch.provision.doctor.gpu_rules import guess_cuda_major, judge_gpus
from raylaunch.provision.doctor.hardware_facts import Hardware, PciGpu
from raylaunch.provision.doctor.network_rules import judge_network
from raylaunch.provision.doctor.verdicts import CHECKS, HERE, Verdict, VerdictState, make_rows
from tests.provision.doctor.conftest import HEAD, WORKER

Make = Callable[..., HostFacts]
Load = Callable[..., ClusterFile]


def pick(verdicts: Iterable[Verdict], check: str, host: str = WORKER) -> Verdict:
    (verdict,) = (found for found in verdicts if (found.check, found.host) == (check, host))
    return verdict


@pytest.fixture
def judge_worker(
    make_host: Make, look_at: Callable[..., ClusterFacts], load_cluster: Load
) -> Callable[..., list[Verdict]]:
    """Verdicts on a sound head and a worker with facts changed by name."""

    def run(*changes: tuple[str, str], **facts_changed: Any) -> list[Verdict]:
        facts = look_at(make_host(HEAD), make_host(WORKER, **facts_changed))
        return list(judge(facts, load_cluster(*changes), model_gb=1, api_port=8080))

    return run


def test_sound_hosts_have_every_check_and_no_other(judge_worker: Callable[..., list[Verdict]]) -> None:
    """All ok, and each check by its name in CHECKS."""
    verdicts = judge_worker()
    assert {verdict.check for verdict in verdicts} == {*CHECKS}
    assert {verdict.state for verdict in verdicts} == {VerdictState.OK}


def test_commands_keep_a_users_name_as_it_is(judge_worker: Callable[..., list[Verdict]], make_host: Make) -> None:
    """A shell would remove the backslash of a domain's user."""
    facts = {"system": replace(make_host(WORKER).system, user="CORP\\mia"), "sudo": probe_facts.Section("", 1)}
    verdicts = judge_worker(**facts, docker=probe_facts.RuntimeFacts("denied"))
    assert shlex.split(pick(verdicts, "docker").fix)[-1] == "CORP\\mia"
    words = shlex.split(pick(verdicts, "sudo").fix)
    assert (words[1], words[5]) == ("CORP\\mia ALL=(ALL) NOPASSWD: ALL", "/etc/sudoers.d/CORP\\mia")


def test_every_failed_verdict_has_a_fix(judge_worker: Callable[..., list[Verdict]], make_host: Make) -> None:
    """A command, or a place to check, for each fault."""
    sound = make_host(WORKER)
    broken: list[dict[str, Any]] = [
        {"docker": probe_facts.RuntimeFacts(problem)} for problem in ("missing", "stopped", "denied", "slow", "failed")
    ]
    broken += [
        {"gpus": probe_facts.HostGpus("missing")},
        {"gpus": probe_facts.HostGpus("Failed to initialize NVML: Driver/library version mismatch")},
        {"shell": probe_facts.Section("", 124)},
        {"memory": (8 << 30, 1 << 30)},
        {"docker": replace(sound.docker, disk=probe_facts.Disk("/x", 1 << 20, 1 << 40))},
        {"network": replace(sound.network, clock_ahead_s=-90.0)},
        {"objects": probe_facts.RuntimeObjects(None, None)},
    ]
    for family in ("debian", "rhel", "suse", "arch", "other"):
        system = replace(sound.system, family=family)
        for change in broken:
            failed = [
                verdict for verdict in judge_worker(system=system, **change) if verdict.state is VerdictState.FAILED
            ]
            assert failed, change
            assert all(verdict.fix and "{" not in verdict.fix for verdict in failed)


@pytest.mark.parametrize(
    ("image", "major"),
    [
        ("vllm/vllm-openai:v0.32.0", 13),
        ("vllm/vllm-openai:v0.20.1", 13),
        ("vllm/vllm-openai:v0.19.0", 12),
        ("registry:5000/raylaunch:0.32.0", 13),
        ("vllm/vllm-openai:latest", None),
        ("other/image:0.32.0", None),
    ],
)
def test_cuda_by_tag(image: str, major: int | None) -> None:
    assert guess_cuda_major(image) == major


def test_drivers_against_images(judge_worker: Callable[..., list[Verdict]], make_host: Make) -> None:
    """550 runs CUDA 12 and not 13: which driver, or which image, fits; an unknown image is not ok."""
    gpus = probe_facts.HostGpus("", tuple(replace(gpu, driver="550.144.03") for gpu in make_host(WORKER).gpus.gpus))
    no_image = probe_facts.RuntimeObjects(None, None)
    old = pick(judge_worker(gpus=gpus, objects=no_image), "driver")
    assert (old.state, "CUDA 12 at most" in old.what) == (VerdictState.FAILED, True)
    assert "nvidia-driver-580-server" in old.fix
    assert "vllm/vllm-openai:v0.19.0" in old.fix
    older = ("v0.32.0", "v0.19.0")
    assert pick(judge_worker(older, gpus=gpus, objects=no_image), "driver").state is VerdictState.OK
    nameless = ("vllm/vllm-openai:v0.32.0", "mine:1")
    assert pick(judge_worker(nameless, objects=no_image), "driver").state is VerdictState.UNKNOWN


def make_gpus(*used_mib: int, name: str = "NVIDIA L4") -> probe_facts.HostGpus:
    """GPUs of which pid 77 holds those with more than 2 GiB."""
    gpus = tuple(probe_facts.Gpu(i, f"GPU-{i}", name, 24000, used, "580.1") for i, used in enumerate(used_mib))
    holders = tuple((gpu.uuid, f"pid 77 (python3) holds {gpu.used_mib} MiB") for gpu in gpus if gpu.used_mib > 2048)
    return probe_facts.HostGpus("", gpus, holders)


@pytest.mark.parametrize(
    "options",
    [
        "--gpus '\"device=2,3\"'",
        "--gpus '\"device=GPU-2,GPU-3\"'",
        "--device nvidia.com/gpu=2 --device nvidia.com/gpu=GPU-3",
        "--runtime=nvidia -e NVIDIA_VISIBLE_DEVICES=2,3",
        "--gpus all -e CUDA_VISIBLE_DEVICES=2,3",
    ],
)
def test_gpus_of_others_are_not_judged(make_host: Make, load_cluster: Load, options: str) -> None:
    """Their processes hold GPU 0 and 1, which the container is not given; no message asks to end them."""
    cluster = load_cluster(("--gpus all", json.dumps(options)))
    hosts = [make_host(host, gpus=make_gpus(22000, 22000, 10, 10)) for host in (HEAD, WORKER)]
    verdicts = list(judge_gpus(hosts, cluster))
    assert {verdict.state for verdict in verdicts} == {VerdictState.OK}
    assert not any("kill" in verdict.fix for verdict in verdicts)
    assert pick(verdicts, "GPUs").what == "2 x NVIDIA L4 23 GiB, of 4 GPUs"
    ours = [make_host(host, gpus=make_gpus(22000, 22000, 9000, 10)) for host in (HEAD, WORKER)]
    held = pick(judge_gpus(ours, cluster), "GPU memory")
    assert held.what == "held by other programs: GPU 2: pid 77 (python3) holds 9000 MiB"


def test_gpus_that_a_host_does_not_have(make_host: Make, load_cluster: Load) -> None:
    """And those that only the shell of the host knows."""
    hosts = [make_host(HEAD, gpus=make_gpus(0, 0)), make_host(WORKER, gpus=make_gpus(0))]
    four = pick(judge_gpus(hosts, load_cluster(("--gpus all", "--gpus 2"))), "GPUs")
    assert (four.state, "GPU 1, which this host does not have: its driver lists 1" in four.what) == (
        VerdictState.FAILED,
        True,
    )
    unknown = list(judge_gpus(hosts, load_cluster(("--gpus all", "--gpus $MINE"))))
    assert {pick(unknown, name).state for name in ("GPUs", "GPU memory")} == {VerdictState.UNKNOWN}


def test_hosts_with_different_numbers_of_gpus(make_host: Make, load_cluster: Load) -> None:
    """A lost GPU is an error, a smaller host is not; with --gpus N all are given as many."""
    head, fewer = make_host(HEAD, gpus=make_gpus(0, 0)), make_host(WORKER, gpus=make_gpus(0))
    assert "1 fewer than" in pick(judge_gpus([head, fewer], load_cluster()), "GPUs").what
    small = replace(fewer, hardware=Hardware((PciGpu(0x27B8, ""),)))
    verdict = pick(judge_gpus([head, small], load_cluster()), "GPUs")
    assert (verdict.state, "--gpus 1" in verdict.fix) == (VerdictState.WARNING, True)
    lost = replace(fewer, hardware=Hardware((PciGpu(0x27B8, ""),) * 2))
    assert pick(judge_gpus([head, lost], load_cluster()), "GPUs").state is VerdictState.FAILED
    alike = judge_gpus([head, small], load_cluster(("--gpus all", "--gpus 1")))
    assert pick(alike, "GPUs").state is VerdictState.OK


def test_blackwell_cards(make_host: Make, load_cluster: Load) -> None:
    """They need the open kernel modules, an image with CUDA 12.8, and no IOMMU between them."""
    name = "NVIDIA RTX PRO 6000 Blackwell Server Edition"
    no_image = probe_facts.RuntimeObjects(None, None)
    card = PciGpu(0x2BB5, "DMA-FQ")
    host = make_host(WORKER, gpus=make_gpus(0, 0, name=name), hardware=Hardware((card, card)), objects=no_image)
    peers = pick(judge_gpus([host], load_cluster()), "peer access")
    assert (peers.state, "iommu=pt" in peers.fix) == (VerdictState.WARNING, True)
    through = replace(host, hardware=Hardware((PciGpu(0x2BB5, "identity"),) * 2))
    assert pick(judge_gpus([through], load_cluster()), "peer access").state is VerdictState.OK
    old = load_cluster(("v0.32.0", "v0.8.5"))
    assert "vLLM 0.8, which has no kernels" in pick(judge_gpus([host], old), "driver").what
    image = probe_facts.Image("sha256:a", (), "", "12.4.1")
    built = replace(host, objects=probe_facts.RuntimeObjects(image, None))
    assert "CUDA 12.4.1, which has no kernels" in pick(judge_gpus([built], load_cluster()), "driver").what
    closed = replace(host, gpus=probe_facts.HostGpus("No devices were found"))
    none = pick(judge_gpus([closed], load_cluster()), "GPUs")
    assert "open kernel modules only" in none.what
    assert "nvidia-driver-580-server-open" in none.fix
    assert is_blackwell("NVIDIA GeForce RTX 5090")
    assert is_blackwell("NVIDIA B200")
    assert not is_blackwell("NVIDIA GeForce RTX 4090")
    assert not is_blackwell("NVIDIA RTX 6000 Ada Generation")


@pytest.mark.parametrize(
    ("options", "state"),
    [
        ("--gpus all", VerdictState.WARNING),
        ("--gpus all --device=/dev/infiniband --cap-add=IPC_LOCK", VerdictState.OK),
        ("--gpus all $([ ! -e /dev/infiniband ] || echo --device=/dev/infiniband)", VerdictState.OK),
        ("--gpus all --privileged", VerdictState.OK),
    ],
)
def test_infiniband_reaches_the_container(
    make_host: Make, load_cluster: Load, options: str, state: VerdictState
) -> None:
    """As every cluster file that `init` writes does it, on hosts that have it."""
    host = make_host(WORKER, hardware=Hardware((), ("mlx5_0 (InfiniBand)",)))
    cluster = load_cluster(("--gpus all", json.dumps(options)))
    assert pick(judge_network([host], cluster), "InfiniBand").state is state


def test_a_host_with_vllms_image_needs_room_for_the_layer_alone(
    judge_worker: Callable[..., list[Verdict]], make_host: Make
) -> None:
    """40 GiB are for vLLM's image, which a second `init` finds there."""
    docker = replace(make_host(WORKER).docker, disk=probe_facts.Disk("/var/lib/docker", 20 << 30, 1 << 40))
    bare: dict[str, Any] = {"docker": docker, "objects": probe_facts.RuntimeObjects(None, None)}
    assert "the image needs 40 GiB" in pick(judge_worker(**bare), "disk").what
    assert pick(judge_worker(**bare, has_base_image=True), "disk").state is VerdictState.OK
    full = bare | {"docker": replace(docker, disk=probe_facts.Disk("/var/lib/docker", 4 << 30, 1 << 40))}
    assert "layer on vLLM's image needs 5 GiB" in pick(judge_worker(**full, has_base_image=True), "disk").what


def test_the_models_disk_is_that_of_its_volume(judge_worker: Callable[..., list[Verdict]], make_host: Make) -> None:
    """A volume of docker's own is on docker's disk."""
    sound = make_host(WORKER)
    tmp, shm = probe_facts.Disk("/tmp", 1, 1), probe_facts.Disk("/dev/shm", 1 << 40, 1 << 40)
    small = replace(sound.docker, disk=probe_facts.Disk("/var/lib/docker", 500_000_000, 1 << 40))
    big = probe_facts.Disk("/home/mia/models", 1 << 40, 1 << 40)
    assert pick(judge_worker(docker=small, disks=(tmp, big, shm)), "model disk").state is VerdictState.OK
    named = pick(judge_worker(docker=small, disks=(tmp, shm)), "model disk")
    assert (named.state, "at /var/lib/docker" in named.what) == (VerdictState.FAILED, True)


def test_cdi_devices_need_a_docker_that_takes_them(judge_worker: Callable[..., list[Verdict]], make_host: Make) -> None:
    docker, change = make_host(WORKER).docker, ("--gpus all", "--device nvidia.com/gpu=all")
    assert pick(judge_worker(change, docker=replace(docker, cdi=True)), "NVIDIA runtime").state is VerdictState.OK
    off = pick(judge_worker(change, docker=replace(docker, cdi=False)), "NVIDIA runtime")
    assert (off.state, "nvidia-ctk cdi generate" in off.fix) == (VerdictState.FAILED, True)


def test_names_and_users_that_rays_launcher_trips_over(
    judge_worker: Callable[..., list[Verdict]],
    make_host: Make,
    look_at: Callable[..., ClusterFacts],
    load_cluster: Load,
) -> None:
    """A domain's backslash; a head whose own name is a loopback address there."""
    user = ("ssh_user: mia", "ssh_user: 'CORP\\mia'")
    found = pick(judge_worker(user), "ssh", HERE)
    assert (found.state, "alice@corp.example" in found.fix) == (VerdictState.FAILED, True)
    head = make_host(HEAD, name=probe_facts.Section("127.0.1.1 STREAM gpu-a\nms=1", 0))
    named = replace(head, address="gpu-a.lab", system=replace(head.system, hostname="gpu-a"))
    cluster = load_cluster((f"head_ip: {HEAD}", "head_ip: gpu-a.lab"))
    verdict = pick(judge(look_at(named), cluster), "hostname", "gpu-a.lab")
    assert (verdict.state, "127.0.1.1" in verdict.what) == (VerdictState.FAILED, True)


def test_a_running_cluster_is_fit(judge_worker: Callable[..., list[Verdict]], make_host: Make) -> None:
    """Of a cluster that is up, container, ports and GPU memory are its own."""
    sound = make_host(WORKER)
    assert sound.objects.image is not None
    running = probe_facts.Container("running", sound.objects.image.id, runs_ray=True)
    gpus = probe_facts.HostGpus("", tuple(replace(gpu, used_mib=22_000) for gpu in sound.gpus.gpus))
    verdicts = judge_worker(
        objects=replace(sound.objects, container=running), gpus=gpus, sockets=frozenset({22, 8076, 10_050})
    )
    assert not [verdict for verdict in verdicts if verdict.state is VerdictState.FAILED]
    assert "runs already" in pick(verdicts, "container").what
    other = replace(running, image="sha256:older")
    assert (
        pick(judge_worker(objects=replace(sound.objects, container=other)), "container").state is VerdictState.WARNING
    )


def test_what_up_replaces_is_no_failure(judge_worker: Callable[..., list[Verdict]], make_host: Make) -> None:
    """A container of this cluster that an interrupted `up` left is ok; anyone else's is not."""
    objects = make_host(WORKER).objects
    left = probe_facts.Container("running", "sha256:1", runs_ray=False, cluster="two")
    assert pick(judge_worker(objects=replace(objects, container=left)), "container").state is VerdictState.OK
    foreign = replace(left, cluster="other")
    assert pick(judge_worker(objects=replace(objects, container=foreign)), "container").state is VerdictState.FAILED


def test_docker_without_an_inventory_is_not_ok(judge_worker: Callable[..., list[Verdict]]) -> None:
    """`docker info` answered, `docker inspect` did not."""
    verdicts = judge_worker(objects=probe_facts.RuntimeObjects(None, None, answered=False))
    for check in ("image", "container"):
        assert pick(verdicts, check).state is VerdictState.UNKNOWN


def test_equal_images_are_recognized(judge_worker: Callable[..., list[Verdict]], make_host: Make) -> None:
    """By id, by registry digest, or by the label of what they were built from."""
    image = make_host(WORKER).objects.image
    assert image is not None
    assert (
        pick(judge_worker(objects=probe_facts.RuntimeObjects(replace(image, id="sha256:b"), None)), "image").state
        is VerdictState.OK
    )
    other = probe_facts.RuntimeObjects(replace(image, id="sha256:b", label="other"), None)
    assert pick(judge_worker(objects=other), "image").state is VerdictState.FAILED
    built = ("docker:", 'initialization_commands: ["build-image vllm/vllm-openai:v0.32.0"]\ndocker:')
    missing = pick(judge_worker(built, objects=probe_facts.RuntimeObjects(None, None)), "image")
    assert (missing.state, "built there" in missing.what) == (VerdictState.OK, True)
    old = pick(judge_worker(built, objects=other), "image")
    assert (old.state, "rebuilds" in old.what) == (VerdictState.OK, True)
    based = probe_facts.RuntimeObjects(replace(image, id="sha256:b", label=f"{image.label}-otherbase"), None)
    assert pick(judge_worker(built, objects=based), "image").state is VerdictState.FAILED, (
        "counts as built, and differs"
    )


@pytest.mark.parametrize(
    ("ahead_s", "state"),
    [(0.5, VerdictState.OK), (-3.0, VerdictState.WARNING), (3.0, VerdictState.WARNING), (-3600.0, VerdictState.FAILED)],
)
def test_clocks(
    judge_worker: Callable[..., list[Verdict]], make_host: Make, ahead_s: float, state: VerdictState
) -> None:
    network = make_host(WORKER).network
    assert network is not None
    assert pick(judge_worker(network=replace(network, clock_ahead_s=ahead_s)), "clock").state is state


@pytest.mark.parametrize(
    ("route", "state", "text"),
    [
        (probe_facts.Route("eth0", WORKER, 1500, 25_000), VerdictState.OK, "25 Gbit/s"),
        (probe_facts.Route("eth0", WORKER, 1500, 1000), VerdictState.WARNING, "1 Gbit/s"),
        (probe_facts.Route("eth0", WORKER, 1500, None), VerdictState.UNKNOWN, "does not report its speed"),
        (probe_facts.Route("eth1", "192.168.0.2", 1500, 10_000), VerdictState.WARNING, "uses 192.168.0.2"),
        (probe_facts.Route(None, None, None, None), VerdictState.UNKNOWN, "no `ip` there"),
        (probe_facts.Route("eth0", WORKER, 9000, 10_000), VerdictState.WARNING, "the other hosts have 1500"),
    ],
)
def test_links(
    judge_worker: Callable[..., list[Verdict]], route: probe_facts.Route, state: VerdictState, text: str
) -> None:
    verdict = pick(judge_worker(route=route), "network")
    assert (verdict.state, text in verdict.what) == (state, True), verdict


@pytest.mark.parametrize(
    ("option", "state"),
    [
        ("--ipc=host", VerdictState.OK),
        ("--shm-size=10.24g", VerdictState.OK),
        ("--shm-size 64m", VerdictState.FAILED),
        ("--shm-size=900g", VerdictState.FAILED),
        ("--init", VerdictState.OK),
    ],
)
def test_shared_memory(judge_worker: Callable[..., list[Verdict]], option: str, state: VerdictState) -> None:
    assert pick(judge_worker(("--ipc=host", option)), "shared memory").state is state


@pytest.mark.parametrize(
    ("tool", "command"), [("ufw", "ufw allow from"), ("firewalld", "firewall-cmd"), ("", "iptables -I INPUT")]
)
def test_firewall_is_opened_with_the_tool_that_closed_it(
    make_host: Make, load_cluster: Load, tool: str, command: str
) -> None:
    """ufw, firewalld, or the kernel's rules; on the host that was not reached."""
    head = make_host(HEAD)
    assert head.network is not None
    shut_out = replace(head.network, reached={WORKER: dict.fromkeys(head.network.reached[WORKER], "silent")})
    hosts = (replace(head, network=shut_out), make_host(WORKER, firewall=tool))
    verdict = pick(judge_network(hosts, load_cluster()), "firewall", HEAD)
    assert "a one-way firewall" in verdict.what
    assert verdict.fix.startswith(f"on {WORKER}: ")
    assert command in verdict.fix


def test_clusters_without_gpus_are_not_checked_for_them(judge_worker: Callable[..., list[Verdict]]) -> None:
    verdict = pick(judge_worker(("--gpus all, ", "")), "GPUs")
    assert verdict.state is VerdictState.UNKNOWN
    assert "--gpus" in verdict.what


def test_the_port_of_the_launch_is_free_on_the_head(make_host: Make, load_cluster: Load) -> None:
    """Taken by a program that is named; or in use while the cluster runs, maybe by what it serves."""

    def judge_port(**changes: Any) -> Verdict:
        return pick(judge_network([make_host(HEAD, **changes)], load_cluster(), api_port=8080), "API port", HEAD)

    assert judge_port().what == "8080 is free"
    taken = judge_port(sockets=frozenset({8080}), listeners={8080: "nginx"})
    assert (taken.state, taken.what) == (VerdictState.FAILED, "8080 is taken by nginx")
    objects = replace(make_host(HEAD).objects, container=probe_facts.Container("running", "sha256:1", runs_ray=True))
    running = judge_port(sockets=frozenset({8080}), objects=objects)
    assert (running.state, "raylaunch status --cluster" in running.fix) == (VerdictState.WARNING, True)


def test_rows_join_hosts_that_are_alike(judge_worker: Callable[..., list[Verdict]]) -> None:
    """Equal verdicts share a line; failed ones come last."""
    rows = make_rows(judge_worker(docker=probe_facts.RuntimeFacts("stopped")))
    assert next(row for row in rows if row.check == "hostname").hosts == (HEAD, WORKER)
    assert (rows[-1].check, rows[-1].hosts) == ("docker", (WORKER,))


def test_the_kernels_log_is_explained(judge_worker: Callable[..., list[Verdict]]) -> None:
    """The heaviest fault, with what to do; a symptom is none; a log that cannot be read is not ok."""

    def judge(text: str, status: int = 0) -> Verdict:
        found = judge_worker(kernel=probe_facts.Section(text, status))
        return next(verdict for verdict in found if verdict.check == "kernel" and verdict.host == WORKER)

    lost = "[Tue Nov 24 02:47:01 2026] NVRM: Xid (PCI:0000:09:00): 79, pid=7, GPU has fallen off the bus."
    killed = "[Tue Nov 24 02:47:01 2026] Out of memory: Killed process 21010 (python3) total-vm:1kB"
    found = judge(f"{killed}\n{lost}")
    assert found.state is VerdictState.WARNING
    assert "0000:09:00 does not answer on the PCIe bus" in found.what
    assert "reseat the GPU" in found.fix
    assert judge("NVRM: Xid (PCI:0000:09:00): 43, pid=7").state is VerdictState.OK
    assert judge("dmesg: read kernel buffer failed: Operation not permitted", 1).state is VerdictState.UNKNOWN
