"""Faults that take more than a command to make or to undo."""

from collections.abc import Iterator
from pathlib import Path

from tests.rig.fault import fault, undone
from tests.rig.host import Host
from tests.rig.laptop import IMAGE, Laptop


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


@fault("unknown host key", "worker", "ssh", "its host key is not known here", "shows its fingerprint")
def _unknown_host_key(laptop: Laptop, host: Host) -> Iterator[None]:
    known = Path.home() / ".ssh" / "known_hosts"
    known.write_text("".join(line for line in known.read_text().splitlines(True) if not line.startswith(host.address)))
    yield


@fault("changed host key", "worker", "ssh", "its host key has changed", "ssh-keygen -R")
def _changed_host_key(laptop: Laptop, host: Host) -> Iterator[None]:
    known = Path.home() / ".ssh" / "known_hosts"
    known.write_text(known.read_text().replace(host.host_key, laptop.rig.head.host_key))
    yield


@fault("head cannot reach worker's ssh", "worker", "head to worker", "the head does not reach its sshd", "port 22")
def _head_shut_out(laptop: Laptop, host: Host) -> Iterator[None]:
    rule = f"INPUT -s {laptop.rig.head.address} -p tcp --dport 22 -j REJECT"
    host.run(f"iptables -I {rule}")
    with undone(host, f"iptables -D {rule}"):
        yield


@fault("daemon stopped", "worker", "docker", "its daemon is not running", "systemctl enable --now docker")
def _daemon_stopped(laptop: Laptop, host: Host) -> Iterator[None]:
    with host.without_docker():
        yield


@fault("no right to docker", "worker", "docker", "user mia may not use docker", "usermod -aG docker mia")
def _no_right_to_docker(laptop: Laptop, host: Host) -> Iterator[None]:
    for each in laptop.rig.hosts:
        each.add_user("mia", laptop.rig.public_key)
    laptop.rig.head.run("chgrp docker /run/docker.sock; usermod -aG docker mia")
    host.run("chgrp docker /run/docker.sock")
    laptop.write_cluster(user="mia")
    yield


@fault("a port taken", "head", "ports", "taken: 6379 (GCS) by python3", "ss -ltnp 'sport = :6379'")
def _port_taken(laptop: Laptop, host: Host) -> Iterator[None]:
    host.run("setsid python3 -m http.server 6379 >/dev/null 2>&1 & echo $! >/run/taker")
    with undone(host, "kill $(cat /run/taker)"):
        host.run("until (exec 3<>/dev/tcp/127.0.0.1/6379) 2>/dev/null; do sleep .05; done", timeout_s=20)
        yield


@fault("a worker's port taken", "worker", "ports", "taken: 10100 (workers)", "ss -ltnp")
def _worker_port_taken(laptop: Laptop, host: Host) -> Iterator[None]:
    host.run("setsid python3 -m http.server -b 127.0.0.1 10100 >/dev/null 2>&1 & echo $! >/run/taker")
    with undone(host, "kill $(cat /run/taker)"):
        host.run("until (exec 3<>/dev/tcp/127.0.0.1/10100) 2>/dev/null; do sleep .05; done", timeout_s=20)
        yield


@fault("one-way firewall", "worker", "firewall", "does not reach HEAD on any of the cluster's ports (silent); the "
       "other direction is open: a one-way firewall", "iptables -I INPUT -s")  # fmt: skip
def _one_way_firewall(laptop: Laptop, host: Host) -> Iterator[None]:
    rule = f"INPUT -s {host.address} -p tcp --syn -j DROP"
    laptop.rig.head.run(f"iptables -I {rule}")
    with undone(laptop.rig.head, f"iptables -D {rule}"):
        yield


@fault("firewall for all but Ray's ports", "worker", "firewall", "on 47999 (NCCL, Gloo) (refused)", "iptables")
def _no_ephemeral_ports(laptop: Laptop, host: Host) -> Iterator[None]:
    rule = f"INPUT -s {host.address} -p tcp --syn --dport 32768:60999 -j REJECT --reject-with tcp-reset"
    laptop.rig.head.run(f"iptables -I {rule}")
    with undone(laptop.rig.head, f"iptables -D {rule}"):
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


@fault("no NVIDIA runtime", "worker", "NVIDIA runtime", "docker cannot pass GPUs to containers", "nvidia-ctk runtime")
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
