"""Another ssh port and a jump host in the user's ssh configuration: what doctor's ssh and Ray's own do with them."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.harness import RAYLAUNCH
from tests.rig.fault import undone
from tests.rig.host import Host
from tests.rig.laptop import IMAGE, Laptop
from tests.rig.rig import Rig

pytestmark = [pytest.mark.root, pytest.mark.rig]

RAYS_SSH = """
import subprocess, sys
from ray.autoscaler._private.command_runner import SSHCommandRunner
class Provider:
    external_ip = internal_ip = staticmethod(lambda node: node)
auth = {"ssh_user": "root", "ssh_private_key": sys.argv[2]}
runner = SSHCommandRunner("", sys.argv[1], Provider, auth, "rig", subprocess, False)
print(runner.run("echo $SSH_CONNECTION", with_output=True).decode())
"""


@pytest.fixture
def laptop(two_hosts: Rig, small_image: Path, tmp_path: Path) -> Laptop:
    """Both hosts have the image and a second sshd on port 2222, of whose keys the laptop knows."""
    if IMAGE not in two_hosts.head.run("docker images --format '{{.Repository}}:{{.Tag}}'").stdout:
        two_hosts.head.import_image(small_image, IMAGE, "ENV CUDA_VERSION=13.0.1", 'CMD ["/bin/bash"]')
        two_hosts.head.copy_image(IMAGE, two_hosts.workers[0])
    known = two_hosts.write_known_hosts(Path.home() / ".ssh" / "known_hosts")
    lines = known.read_text().splitlines()
    known.write_text("\n".join([*lines, *(f"[{line.replace(' ', ']:2222 ', 1)}" for line in lines)]) + "\n")
    laptop = Laptop(two_hosts, tmp_path / "cluster.yaml")
    laptop.write_cluster()
    return laptop


def run_with_config(config: Path, *command: str) -> "subprocess.CompletedProcess[str]":
    """Run a command where `config` stands in the place of the machine's ssh_config; a user's own has the same keys."""
    script = 'mount --bind "$0" /etc/ssh/ssh_config && exec "$@"'
    return subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, str(config), *command],
        capture_output=True, text=True, check=False, timeout=90,
    )  # fmt: skip


def ask_rays_ssh(laptop: Laptop, config: Path, host: Host) -> list[str]:
    """SSH_CONNECTION (client, its port, server, its port) of a connection that Ray's launcher makes."""
    done = run_with_config(config, sys.executable, "-c", RAYS_SSH, host.address, str(laptop.rig.key))
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[-4:]


def test_another_port_of_the_head(laptop: Laptop, tmp_path: Path) -> None:
    """Both use it; for a worker the head would not: doctor reports the worker that it does not reach on port 22."""
    head, (worker,) = laptop.rig.head, laptop.rig.workers
    config = tmp_path / "config"
    config.write_text(f"Host {head.address} {worker.address}\n  Port 2222\n")
    for host in laptop.rig.hosts:
        host.start_sshd("-oPort=2222", "-oPidFile=/run/sshd2.pid")
    doctor = (RAYLAUNCH, "doctor", str(laptop.cluster))
    with undone(head, "kill $(cat /run/sshd2.pid)"), undone(worker, "kill $(cat /run/sshd2.pid)"):
        assert ask_rays_ssh(laptop, config, head)[3] == "2222"
        found = run_with_config(config, *doctor)
        assert found.returncode == 0, found.stdout + found.stderr
        close = "INPUT -p tcp --dport 22 -j REJECT --reject-with tcp-reset"
        worker.run(f"iptables -I {close}")
        with undone(worker, f"iptables -D {close}"):
            found = run_with_config(config, *doctor)
        assert found.returncode == 1
        assert f"failed: head to worker on {worker.address}" in found.stdout
        assert f"failed: ssh on {worker.address}" not in found.stdout


def test_a_jump_host(laptop: Laptop, tmp_path: Path) -> None:
    """Both go through it: the host sees the jump host as its client."""
    head, (worker,) = laptop.rig.head, laptop.rig.workers
    known = Path.home() / ".ssh" / "known_hosts"
    config = tmp_path / "config"
    config.write_text(
        f"Host {worker.address}\n  ProxyJump root@{head.address}\n"
        f"Host {head.address}\n  IdentityFile {laptop.rig.key}\n  UserKnownHostsFile {known}\n"
    )
    assert ask_rays_ssh(laptop, config, worker)[0] == head.address
    close = f"INPUT -p tcp --dport 22 -s {laptop.rig.laptop_address} -j REJECT"
    worker.run(f"iptables -I {close}")
    with undone(worker, f"iptables -D {close}"):
        found = run_with_config(config, RAYLAUNCH, "doctor", str(laptop.cluster))
        assert found.returncode == 0, found.stdout + found.stderr
