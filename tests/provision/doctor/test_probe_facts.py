"""Parsers, on the probe's recorded answers and on lines as other machines write them."""

import pytest

from raylaunch.provision.doctor import probe_facts
from raylaunch.provision.doctor.probe_facts import Section
from tests.provision.doctor.conftest import read_probe


def test_busy_host() -> None:
    """A container that only sleeps, GPUs held by another program, a port taken."""
    probe = read_probe("busy")
    assert probe.noise == ""
    assert probe.find("shell") == Section("RAN", 0)
    system = probe_facts.parse_system(probe.find("system"))
    assert (system.family, system.user, system.hostname, system.has_bashrc, system.sudo) == (
        "debian",
        "root",
        "h2",
        True,
        "",
    )
    docker = probe_facts.parse_docker(probe.find("docker"))
    assert (docker.problem, docker.version) == ("", "20.10.24+dfsg1")
    assert "nvidia" in docker.runtimes
    assert docker.disk is not None
    assert docker.disk.place == "/var/lib/docker"
    objects = probe_facts.parse_objects(probe.find("objects"))
    assert objects.image is not None
    assert (objects.image.cuda, objects.image.label) == ("13.0.1", "abc")
    assert objects.container is not None
    assert (objects.container.status, objects.container.runs_ray) == ("running", False)
    assert objects.container.image == objects.image.id
    gpus = probe_facts.parse_gpus(probe.find("gpus"), probe.find("holders"))
    assert len(gpus.gpus) == len(gpus.holders) == 8
    assert gpus.holders[0] == (gpus.gpus[0].uuid, "pid 4242 (python3) holds 20000 MiB")
    assert probe_facts.parse_sockets(probe.find("sockets")) == {22, 6379}
    assert probe_facts.parse_listeners(probe.find("listeners"))[6379].startswith("python3 (pid ")
    assert probe_facts.parse_route(probe.find("route")) == probe_facts.Route("eth0", "10.0.0.12", 1500, 10_000)
    assert [disk.place for disk in probe_facts.parse_disks(probe.find("disk"))] == ["/tmp", "/data", "/dev/shm"]
    memory = probe_facts.parse_memory(probe.find("memory"))
    assert memory is not None
    assert memory[0] == 24684096 << 10


def test_host_of_a_user_without_rights() -> None:
    """Noise, no docker, a driver that is not loaded, an unknown hostname, no sudo."""
    probe = read_probe("denied")
    assert probe.noise.strip() == "Welcome"
    assert probe.find("shell").text.startswith("Welcome\n")
    assert probe_facts.parse_docker(probe.find("docker")).problem == "denied"
    assert probe_facts.parse_objects(probe.find("objects")) == probe_facts.RuntimeObjects(None, None)
    assert probe_facts.parse_gpus(probe.find("gpus"), probe.find("holders")).problem.startswith("NVIDIA-SMI has failed")
    assert probe.find("name").status != 0
    assert probe.find("sudo").status == probe_facts.MISSING
    assert probe_facts.parse_system(probe.find("system")).sudo == "sudo "


def test_host_where_little_runs() -> None:
    """docker stopped, no nvidia-smi, no .bashrc."""
    probe = read_probe("stopped")
    assert probe_facts.parse_docker(probe.find("docker")).problem == "stopped"
    assert probe_facts.parse_gpus(probe.find("gpus"), probe.find("holders")).problem == "missing"
    assert not probe_facts.parse_system(probe.find("system")).has_bashrc
    assert probe.find("shell").status != 0


def test_a_missing_section_counts_as_out_of_time() -> None:
    """An answer that broke off, or none at all."""
    probe = probe_facts.split("hello\n\n@mark begin\n\n@mark docker\nhalf of it", "@mark")
    assert probe.noise.strip() == "hello"
    assert probe.find("docker").timed_out
    assert probe_facts.parse_docker(probe.find("docker")).problem == "slow"
    assert not probe_facts.parse_objects(probe.find("objects")).answered


@pytest.mark.parametrize(
    ("text", "status", "problem"),
    [
        ("", 127, "missing"),
        ("", 124, "slow"),
        ("Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is it running?\nno daemon", 0, "stopped"),
        ("permission denied while trying to connect to the Docker daemon socket", 1, "denied"),
        ("something else", 1, "failed"),
        ('{"ServerVersion":"28.1.1","Runtimes":{"runc":{}},"DockerRootDir":"/x"}', 0, ""),
    ],
)
def test_docker_answers(text: str, status: int, problem: str) -> None:
    """docker info of several releases, and what the probe adds."""
    assert probe_facts.parse_docker(Section(text, status)).problem == problem


@pytest.mark.parametrize(
    ("identity", "family"),
    [
        ("id=ubuntu\nlike=debian", "debian"),
        ('id="rocky"\nlike="rhel centos fedora"', "rhel"),
        ('id="opensuse-leap"\nlike="suse opensuse"', "suse"),
        ("id=arch\nlike=", "arch"),
        ("id=nixos\nlike=", "other"),
    ],
)
def test_distributions(identity: str, family: str) -> None:
    """os-release as those distributions write it."""
    assert probe_facts.parse_system(Section(identity, 0)).family == family


def test_nvidia_smi_of_a_real_machine() -> None:
    """Names with commas would break no line; [N/A] reads as nothing."""
    gpus = probe_facts.parse_gpus(
        Section("0, GPU-1, NVIDIA GeForce RTX 4090, 24564, [N/A], 550.144.03\nnoise\n", 0),
        Section("GPU-1, 99, 512, /usr/bin/python3, with a comma\n", 0),
    )
    assert gpus.gpus == (probe_facts.Gpu(0, "GPU-1", "NVIDIA GeForce RTX 4090", 24564, 0, "550.144.03"),)
    assert gpus.holders == (("GPU-1", "pid 99 (/usr/bin/python3, with a comma) holds 512 MiB"),)
    assert probe_facts.parse_gpus(Section("", 124), Section("", 124)).problem == "no answer within 10 s"


def test_virtual_links_have_no_speed() -> None:
    """The kernel reports -1, or nothing."""
    route = probe_facts.parse_route(Section("10.0.0.1 dev br0 src 10.0.0.2\nlink=br0\nmtu=9000\nspeed=-1", 0))
    assert route == probe_facts.Route("br0", "10.0.0.2", 9000, None)
    assert probe_facts.parse_route(Section("ip: command not found\nlink=\nmtu=\nspeed=", 127)).link is None
