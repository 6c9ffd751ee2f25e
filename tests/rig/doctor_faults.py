"""The faults that doctor has to tell before `ray up` changes anything: how each is made on real hosts, and undone."""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from tests.rig.host import Host
from tests.rig.laptop import IMAGE, Laptop

Make = Callable[[Laptop, Host], AbstractContextManager[None]]


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong on a host, and how doctor has to tell it."""

    name: str
    make: Make
    where: str
    """"head" or "worker"."""
    check: str
    """The one check that is red."""
    what: str
    """Words of it; HEAD stands for the head's address."""
    fix: str
    """Words of what to do."""


FAULTS: list[Fault] = []


def fault(
    name: str, where: str, check: str, what: str, fix: str
) -> Callable[[Callable[[Laptop, Host], Iterator[None]]], None]:
    """Put what is decorated into FAULTS: it makes the fault, yields, and undoes it."""

    def register(make: Callable[[Laptop, Host], Iterator[None]]) -> None:
        FAULTS.append(Fault(name, contextlib.contextmanager(make), where, check, what, fix))

    return register


@contextlib.contextmanager
def mended(host: Host, command: str) -> Iterator[None]:
    """Run a command on the host afterwards, whatever happens."""
    try:
        yield
    finally:
        host.run(command)


@fault("worker ssh down", "worker", "ssh", "no sshd listens on port 22", "systemctl enable --now ssh")
def _worker_ssh_down(laptop: Laptop, host: Host) -> Iterator[None]:
    with host.without_sshd():
        yield


@fault("head ssh down", "head", "ssh", "no sshd listens on port 22", "systemctl enable --now ssh")
def _head_ssh_down(laptop: Laptop, host: Host) -> Iterator[None]:
    with host.without_sshd():
        yield


@fault("worker off", "worker", "ssh", "the machine is off, in another network", "ping")
def _worker_off(laptop: Laptop, host: Host) -> Iterator[None]:
    with host.cut_off():
        yield


@fault("wrong key", "worker", "ssh", "does not take the key", "ssh-copy-id")
def _wrong_key(laptop: Laptop, host: Host) -> Iterator[None]:
    host.run("mv /root/.ssh/authorized_keys /root/.ssh/elsewhere")
    with mended(host, "mv /root/.ssh/elsewhere /root/.ssh/authorized_keys"):
        yield


@fault("unknown host key", "worker", "ssh", "its host key is not known here", "ssh-keyscan")
def _unknown_host_key(laptop: Laptop, host: Host) -> Iterator[None]:
    known = Path.home() / ".ssh" / "known_hosts"
    known.write_text("".join(line for line in known.read_text().splitlines(True) if not line.startswith(host.address)))
    yield


@fault("changed host key", "worker", "ssh", "its host key is another one than before", "ssh-keygen -R")
def _changed_host_key(laptop: Laptop, host: Host) -> Iterator[None]:
    known = Path.home() / ".ssh" / "known_hosts"
    known.write_text(known.read_text().replace(host.host_key, laptop.rig.head.host_key))
    yield


@fault("key only from here", "worker", "head to worker", "takes the key from here, but not from the head", "from=")
def _key_only_from_here(laptop: Laptop, host: Host) -> Iterator[None]:
    host.run(f"sed -i.bak 's/^/from=\"{laptop.rig.laptop_address}\" /' /root/.ssh/authorized_keys")
    with mended(host, "mv /root/.ssh/authorized_keys.bak /root/.ssh/authorized_keys"):
        yield


@fault("head cannot reach worker's ssh", "worker", "head to worker", "the head does not reach its sshd", "port 22")
def _head_shut_out(laptop: Laptop, host: Host) -> Iterator[None]:
    rule = f"INPUT -s {laptop.rig.head.address} -p tcp --dport 22 -j REJECT"
    host.run(f"iptables -I {rule}")
    with mended(host, f"iptables -D {rule}"):
        yield


@fault("noisy .bashrc", "worker", "login shell", '~/.bashrc prints "Welcome to the GPU farm"', "bash -lic true")
def _noisy_bashrc(laptop: Laptop, host: Host) -> Iterator[None]:
    host.run("cp /root/.bashrc /root/.kept; echo 'echo Welcome to the GPU farm' >>/root/.bashrc")
    with mended(host, "mv /root/.kept /root/.bashrc"):
        yield


@fault("noise before all else", "worker", "login shell", '~/.bashrc prints "Hello"', "bash -lic true")
def _noise_first(laptop: Laptop, host: Host) -> Iterator[None]:
    host.run("cp /root/.bashrc /root/.kept; sed -i '1i echo Hello' /root/.bashrc")
    with mended(host, "mv /root/.kept /root/.bashrc"):
        yield


@fault("missing .bashrc", "worker", "login shell", "~/.bashrc is missing", "touch ~/.bashrc")
def _missing_bashrc(laptop: Laptop, host: Host) -> Iterator[None]:
    host.run("mv /root/.bashrc /root/.kept")
    with mended(host, "mv /root/.kept /root/.bashrc"):
        yield


@fault(".bashrc that exits", "worker", "login shell", "ends the shell with status 3", "bash -lixc true")
def _exiting_bashrc(laptop: Laptop, host: Host) -> Iterator[None]:
    host.run("cp /root/.bashrc /root/.kept; echo 'case $- in *i*) exit 3;; esac' >>/root/.bashrc")
    with mended(host, "mv /root/.kept /root/.bashrc"):
        yield


@fault(".bashrc that ends every login", "worker", "ssh", "the login ends before it runs a command", "~/.bashrc")
def _fatal_bashrc(laptop: Laptop, host: Host) -> Iterator[None]:
    host.run("cp /root/.bashrc /root/.kept; sed -i '1i exit 3' /root/.bashrc")
    with mended(host, "mv /root/.kept /root/.bashrc"):
        yield


@fault("unresolvable hostname", "worker", "hostname", "its own name mars does not resolve", "/etc/hosts")
def _unresolvable(laptop: Laptop, host: Host) -> Iterator[None]:
    host.run("hostname mars")
    with mended(host, f"hostname {host.name}"):
        yield


@fault("docker missing", "worker", "docker", "docker is not installed", "apt-get install -y docker.io")
def _docker_missing(laptop: Laptop, host: Host) -> Iterator[None]:
    host.run("mv /usr/bin/docker /usr/bin/kept")
    with mended(host, "mv /usr/bin/kept /usr/bin/docker"):
        yield


@fault("daemon stopped", "worker", "docker", "its daemon does not run", "systemctl enable --now docker")
def _daemon_stopped(laptop: Laptop, host: Host) -> Iterator[None]:
    with host.without_docker():
        yield


@fault("no right to docker", "worker", "docker", "user mia has no right to docker", "usermod -aG docker mia")
def _no_right_to_docker(laptop: Laptop, host: Host) -> Iterator[None]:
    for each in laptop.rig.hosts:
        each.add_user("mia", laptop.rig.public_key)
    laptop.rig.head.run("chgrp docker /run/docker.sock; usermod -aG docker mia")
    host.run("chgrp docker /run/docker.sock")
    laptop.write_cluster(user="mia")
    yield


@fault("image missing", "worker", "image", f"image {IMAGE} is not there", f"docker pull {IMAGE}; or copy it: ssh root@")
def _image_missing(laptop: Laptop, host: Host) -> Iterator[None]:
    host.run(f"docker tag {IMAGE} kept:1 && docker rmi {IMAGE}")
    with mended(host, f"docker tag kept:1 {IMAGE} && docker rmi kept:1"):
        yield


@fault("different image on the two hosts", "worker", "image", "is another image (", "docker save")
def _different_image(laptop: Laptop, host: Host) -> Iterator[None]:
    host.run(f"docker tag {IMAGE} kept:1 && printf 'FROM kept:1\\nENV OTHER=1\\n' | docker build -t {IMAGE} -")
    with mended(host, f"docker tag kept:1 {IMAGE} && docker rmi kept:1"):
        yield


@fault("a port taken", "head", "ports", "taken: 6379 (GCS) by python3", "ss -ltnp 'sport = :6379'")
def _port_taken(laptop: Laptop, host: Host) -> Iterator[None]:
    host.run("setsid python3 -m http.server 6379 >/dev/null 2>&1 & echo $! >/run/taker")
    with mended(host, "kill $(cat /run/taker)"):
        host.run("until (exec 3<>/dev/tcp/127.0.0.1/6379) 2>/dev/null; do sleep .05; done", timeout_s=20)
        yield


@fault("a worker's port taken", "worker", "ports", "taken: 10100 (workers)", "ss -ltnp")
def _worker_port_taken(laptop: Laptop, host: Host) -> Iterator[None]:
    host.run("setsid python3 -m http.server -b 127.0.0.1 10100 >/dev/null 2>&1 & echo $! >/run/taker")
    with mended(host, "kill $(cat /run/taker)"):
        host.run("until (exec 3<>/dev/tcp/127.0.0.1/10100) 2>/dev/null; do sleep .05; done", timeout_s=20)
        yield


@fault("one-way firewall", "worker", "firewall", "does not reach HEAD on any of the cluster's ports (silent); the "
       "other direction is open: a one-way firewall", "iptables -I INPUT -s")  # fmt: skip
def _one_way_firewall(laptop: Laptop, host: Host) -> Iterator[None]:
    rule = f"INPUT -s {host.address} -p tcp --syn -j DROP"
    laptop.rig.head.run(f"iptables -I {rule}")
    with mended(laptop.rig.head, f"iptables -D {rule}"):
        yield


@fault("firewall for all but Ray's ports", "worker", "firewall", "on 47999 (NCCL, Gloo) (refused)", "iptables")
def _no_ephemeral_ports(laptop: Laptop, host: Host) -> Iterator[None]:
    rule = f"INPUT -s {host.address} -p tcp --syn --dport 32768:60999 -j REJECT --reject-with tcp-reset"
    laptop.rig.head.run(f"iptables -I {rule}")
    with mended(laptop.rig.head, f"iptables -D {rule}"):
        yield


@fault("disk full", "worker", "disk", "GiB free for docker (/var/lib/docker)", "docker system prune")
def _disk_full(laptop: Laptop, host: Host) -> Iterator[None]:
    host.stop_docker()
    host.run("mount -t tmpfs -o size=200m tmpfs /var/lib/docker")
    try:
        host.start_docker()
        host.wait_docker()
        laptop.rig.head.copy_image(IMAGE, host)
        host.run("! cat /dev/zero >/var/lib/docker/full 2>/dev/null")
        yield
    finally:
        host.stop_docker()
        host.run("umount /var/lib/docker")
        host.start_docker()
        host.wait_docker()


@fault("stale container of an earlier run", "worker", "container", "a stale container raylaunch of an earlier run is "
       "there", "docker rm -f raylaunch")  # fmt: skip
def _stale_container(laptop: Laptop, host: Host) -> Iterator[None]:
    host.run(f"docker create --name raylaunch {IMAGE}")
    with mended(host, "docker rm -f raylaunch"):
        yield


@fault("a container without Ray", "worker", "container", "a container raylaunch is running, but no Ray is in it",
       "docker rm -f raylaunch")  # fmt: skip
def _idle_container(laptop: Laptop, host: Host) -> Iterator[None]:
    host.run(f"docker run -d --network host --name raylaunch {IMAGE} /bin/sleep 600")
    with mended(host, "docker rm -f raylaunch"):
        yield


@fault("one host with fewer GPUs", "worker", "GPUs", "7 x NVIDIA L4 22 GiB: 1 fewer than the other hosts' 8", "xid")
def _fewer_gpus(laptop: Laptop, host: Host) -> Iterator[None]:
    host.run("echo COUNT=7 >/etc/rig-gpus")
    with mended(host, "rm /etc/rig-gpus"):
        yield


@fault("driver older than the image's CUDA", "worker", "driver", "driver 550.144.03 runs CUDA 12 at most",
       "apt-get install -y nvidia-driver-580-server && reboot; or, with this driver, docker.image")  # fmt: skip
def _old_driver(laptop: Laptop, host: Host) -> Iterator[None]:
    host.run("echo DRIVER=550.144.03 CUDA=12.4 >/etc/rig-gpus")
    with mended(host, "rm /etc/rig-gpus"):
        yield


@fault("driver not loaded", "worker", "GPUs", "nvidia-smi fails: NVIDIA-SMI has failed", "modprobe nvidia")
def _no_driver(laptop: Laptop, host: Host) -> Iterator[None]:
    host.run("echo COUNT= >/etc/rig-gpus")
    with mended(host, "rm /etc/rig-gpus"):
        yield


@fault("GPU memory held by a stranger", "worker", "GPU memory", "held by strangers: GPU 0: pid 4242 (python3) holds "
       "20000 MiB", "kill 4242")  # fmt: skip
def _held_gpus(laptop: Laptop, host: Host) -> Iterator[None]:
    host.run("echo HOLDER=4242 USED_MIB=20000 >/etc/rig-gpus")
    with mended(host, "rm /etc/rig-gpus"):
        yield


@fault("no NVIDIA runtime", "worker", "NVIDIA runtime", "docker cannot hand GPUs to containers", "nvidia-ctk runtime")
def _no_runtime(laptop: Laptop, host: Host) -> Iterator[None]:
    host.stop_docker()
    host.run("mv /usr/bin/nvidia-container-runtime-hook /usr/bin/kept")
    host.start_docker(nvidia=False)
    host.wait_docker()
    try:
        yield
    finally:
        host.stop_docker()
        host.run("mv /usr/bin/kept /usr/bin/nvidia-container-runtime-hook")
        host.start_docker()
        host.wait_docker()
