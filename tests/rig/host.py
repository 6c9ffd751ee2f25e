"""One host of a rig: how to run commands on it, break it and repair it, none of it through its sshd."""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

HERE = Path(__file__).parent
ENVIRON = ["HOME=/root", "LANG=C.UTF-8", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
"""What a process of a host starts with: nothing of the tests' own (a TMPDIR of ours would break containerd)."""
DEADLINE_S = 60.0
_PROGRAMS = {
    "runc_shim.py": ("/usr/sbin/runc", "/usr/bin/nvidia-container-runtime", "/usr/bin/nvidia-container-runtime-hook"),
    "nvidia_smi.sh": ("/usr/bin/nvidia-smi",),
}
_SSHD_CONFIG = """\
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
MaxStartups 500
HostKey /etc/ssh/ssh_host_ed25519_key
PidFile /run/sshd.pid
"""


def run_here(*command: str, stdin: str | None = None) -> str:
    """Run a command on this machine, and return its output.

    Raises:
        AssertionError: it failed; the message holds its output.
    """
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr or done.stdout}"
    return done.stdout


def wait_until(done: Callable[[], bool], what: str, deadline_s: float = DEADLINE_S) -> None:
    """Ask every 50 ms until `done`.

    Raises:
        AssertionError: it did not come to be within the deadline.
    """
    until = time.monotonic() + deadline_s
    while not done():
        assert time.monotonic() < until, f"{what}: not within {deadline_s:.0f} s"
        time.sleep(0.05)


@dataclass
class Host:
    """A machine of its own for an ssh client: network, name, processes, mounts, file system, sshd and dockerd."""

    name: str
    address: str
    link: str
    """This machine's end of the host's cable."""
    cgroup: str
    """Where its containers are accounted, below every controller; the host's alone."""
    disk: Path
    """Where its /data, /home, /root, /tmp and docker's images lie."""
    outer: "subprocess.Popen[str]"
    """`unshare`; its child is the host's process 1."""
    pid: int
    """The host's process 1, as this machine numbers it."""
    host_key: str = field(default="", repr=False)
    """Its public host key, "ssh-ed25519 AAAA..."."""

    def run(
        self, command: str, *, check: bool = True, stdin: IO[bytes] | None = None, timeout_s: float = DEADLINE_S
    ) -> "subprocess.CompletedProcess[str]":
        """Run a shell command on the host as root.

        Raises:
            AssertionError: it failed, and `check` asks that it does not.
        """
        enter = ["nsenter", "-t", str(self.pid), "-m", "-u", "-i", "-n", "-p", "--", "env", "-i", *ENVIRON]
        ended = subprocess.run(
            [*enter, "bash", "-c", command],
            stdin=stdin or subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
        done = subprocess.CompletedProcess(
            command, ended.returncode, ended.stdout.decode(errors="replace"), ended.stderr.decode(errors="replace")
        )
        assert not check or done.returncode == 0, f"{self.name}: {command}: {done.stderr or done.stdout}"
        return done

    def write(self, path: str, content: str, *, mode: str = "644", owner: str = "root") -> None:
        """Write a file on the host."""
        with tempfile.TemporaryFile() as source:
            source.write(content.encode())
            source.seek(0)
            self.run(f"cat >'{path}' && chmod {mode} '{path}' && chown {owner} '{path}'", stdin=source)

    # -- what a host is made of -----------------------------------------------------------------------------------

    def furnish(self, public_key: str | None) -> None:
        """Give the host its programs, its host key, and (for root) the key that opens it."""
        self.run("mv /usr/sbin/runc /usr/sbin/runc.real 2>/dev/null || mv /usr/bin/runc /usr/sbin/runc.real")
        for source, places in _PROGRAMS.items():
            for place in places:
                self.write(place, (HERE / source).read_text(), mode="755")
        self.run("ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key")
        kind, key, *_ = self.run("cat /etc/ssh/ssh_host_ed25519_key.pub").stdout.split()
        self.host_key = f"{kind} {key}"
        self.write("/etc/ssh/rig_sshd_config", _SSHD_CONFIG)
        self.run("cp /etc/skel/.bashrc /etc/skel/.profile /root/")
        if public_key:
            self.authorize("root", "/root", public_key)

    def authorize(self, user: str, home: str, public_key: str) -> None:
        """Let the holder of the key log in as `user`."""
        self.run(f"mkdir -p {home}/.ssh && chmod 700 {home}/.ssh && chown {user} {home}/.ssh")
        self.write(f"{home}/.ssh/authorized_keys", public_key, mode="600", owner=user)

    def add_user(self, user: str, public_key: str) -> None:
        """Make a user without any right beyond a login; it ends with the host."""
        self.run(f"id {user} 2>/dev/null || useradd -m -s /bin/bash -p '*' {user}")
        self.authorize(user, f"/home/{user}", public_key)

    # -- services -------------------------------------------------------------------------------------------------

    def start_sshd(self, *options: str) -> None:
        """Start sshd; options are sshd's own, such as "-oPort=2222"."""
        self.run(f"/usr/sbin/sshd -f /etc/ssh/rig_sshd_config -E /var/log/sshd.log {' '.join(options)}")
        wait_until(lambda: self.run("test -s /run/sshd.pid", check=False).returncode == 0, f"{self.name}: sshd")

    def stop_sshd(self) -> None:
        """End the listening sshd; connections that are open stay."""
        self._end("/run/sshd.pid")

    def start_docker(self, *, nvidia: bool = True) -> None:
        """Start dockerd, knowing NVIDIA's runtime or not, and do not wait for it."""
        options = [
            *("--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false"),
            *("--userland-proxy=false", "--storage-driver=overlay2", "--exec-opt=native.cgroupdriver=cgroupfs"),
            *(f"--cgroup-parent=/{self.cgroup}", "--oom-score-adjust=0"),
            *(("--add-runtime=nvidia=nvidia-container-runtime",) if nvidia else ()),
        ]
        self.run(f"setsid dockerd {' '.join(options)} </dev/null >>/var/log/dockerd.log 2>&1 &")

    def wait_docker(self) -> None:
        """Wait until dockerd answers."""
        try:
            wait_until(lambda: self.run("docker version", check=False).returncode == 0, f"{self.name}: dockerd")
        except AssertionError as error:
            log = self.run("tail -n 20 /var/log/dockerd.log", check=False).stdout
            raise AssertionError(f"{error}\n{log}") from None

    def stop_docker(self) -> None:
        """End dockerd and wait until it is gone; its containers end with it."""
        self._end("/run/docker.pid")

    @contextmanager
    def without_sshd(self) -> Iterator[None]:
        """No sshd for a while."""
        self.stop_sshd()
        try:
            yield
        finally:
            self.start_sshd()

    @contextmanager
    def without_docker(self) -> Iterator[None]:
        """No dockerd for a while."""
        self.stop_docker()
        try:
            yield
        finally:
            self.start_docker()
            self.wait_docker()

    def _end(self, pid_file: str) -> None:
        self.run(
            f"pid=$(cat {pid_file}); kill $pid; for i in $(seq 600); do kill -0 $pid 2>/dev/null || break; sleep .05; "
            f"done; ! kill -0 $pid 2>/dev/null; rm -f {pid_file}"
        )

    # -- images ---------------------------------------------------------------------------------------------------

    def import_image(self, archive: Path, tag: str, *changes: str) -> str:
        """Make an image of a flat root file system (`docker import`), and return its id."""
        options = " ".join(f"--change '{change}'" for change in changes)
        with archive.open("rb") as source:
            return self.run(f"docker import {options} - {tag}", stdin=source, timeout_s=600).stdout.strip()

    def copy_image(self, tag: str, target: "Host") -> None:
        """Give another host the same image."""
        self.run(f"docker save -o /data/image.tar {tag}")
        target.load_image(self.disk / "data" / "image.tar")
        self.run("rm /data/image.tar")

    def load_image(self, archive: Path) -> None:
        """Load an archive of `docker save`."""
        with archive.open("rb") as source:
            self.run("docker load", stdin=source, timeout_s=600)

    # -- the cable ------------------------------------------------------------------------------------------------

    @contextmanager
    def cut_off(self) -> Iterator[None]:
        """Pull the host's cable, and plug it in again."""
        run_here("ip", "link", "set", self.link, "down")
        try:
            yield
        finally:
            run_here("ip", "link", "set", self.link, "up")

    def set_rate(self, mbit_s: int) -> None:
        """Hold both directions of the host's cable to a rate."""
        shape = ["root", "tbf", "rate", f"{mbit_s}mbit", "burst", "256kb", "latency", "100ms"]
        run_here("tc", "qdisc", "replace", "dev", self.link, *shape)
        self.run(f"tc qdisc replace dev eth0 {' '.join(shape)}")

    # -- its end --------------------------------------------------------------------------------------------------

    def cut_power(self) -> None:
        """End every process of the host at once, and wait for none: process 1 takes the others with it."""
        if self.outer.poll() is None:
            self.outer.send_signal(signal.SIGKILL)  # unshare --kill-child

    def remove(self) -> None:
        """End the host, wait until it is gone, and remove what it had on this machine but for its disk."""
        self.cut_power()
        self.outer.wait(timeout=DEADLINE_S)
        wait_until(lambda: not Path(f"/proc/{self.pid}").exists(), f"{self.name}: its end")
        subprocess.run(["ip", "link", "del", self.link], stderr=subprocess.DEVNULL, check=False)  # the kernel may lag
        remove_cgroup(self.cgroup)


def remove_cgroup(name: str) -> None:
    """Remove a host's control groups under every controller."""
    root = Path("/sys/fs/cgroup")
    for top in (root / name, *root.glob(f"*/{name}")):  # version 2, version 1
        for folder, _, _ in os.walk(top, topdown=False):
            Path(folder).rmdir()
