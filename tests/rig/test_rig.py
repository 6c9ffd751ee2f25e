"""The rig itself: hosts are apart, can be reached and broken, and leave nothing."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.rig.host import Host, run_here, wait_until
from tests.rig.rig import Rig, start_rig

pytestmark = [pytest.mark.root, pytest.mark.rig]


def ssh(rig: Rig, host: Host, command: str, *options: str) -> "subprocess.CompletedProcess[str]":
    known = rig.write_known_hosts(Path.home() / ".ssh" / "known_hosts")
    return subprocess.run(
        ["ssh", "-i", str(rig.key), "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "ConnectTimeout=3",
         "-o", f"UserKnownHostsFile={known}", *options, f"root@{host.address}", command],
        capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60, check=False,
    )  # fmt: skip


def list_traces(number: int) -> list[str]:
    """Interfaces and control groups that carry a rig's number."""
    links = [link["ifname"] for link in json.loads(run_here("ip", "-json", "link"))]
    groups = [str(path) for path in Path("/sys/fs/cgroup").glob(f"*/rl{number}h*")]
    return [name for name in links if name == f"rl{number}" or name.startswith(f"rl{number}h")] + groups


def test_hosts_are_apart(two_hosts: Rig) -> None:
    """Each has its own name, processes, files, docker and host key; the key opens both, and they reach each other."""
    h1, h2 = two_hosts.hosts
    assert ssh(two_hosts, h1, "hostname").stdout == "h1\n"
    assert ssh(two_hosts, h2, "hostname").stdout == "h2\n"
    assert h1.host_key != h2.host_key
    h1.run("touch /data/mine /etc/mine; echo data >/dev/shm/mine")
    assert h2.run("ls /data /dev/shm").stdout.split() == ["/data:", "/dev/shm:"]
    assert not Path("/etc/mine").exists()
    assert "dockerd" in h1.run("ps ax").stdout
    assert int(h1.run("ps ax | wc -l").stdout) < 20
    assert h1.run("nvidia-smi -L | wc -l").stdout == "8\n"
    h1.run(f"exec 3<>/dev/tcp/{h2.address}/22 && head -c 4 <&3")
    h1.run("rm /data/mine /etc/mine /dev/shm/mine")


def test_containers_run(two_hosts: Rig, small_image: Path) -> None:
    """Production options run on a host, in its own control group, and shared disks reach the container."""
    host = two_hosts.head
    host.import_image(small_image, "small:1", 'CMD ["/bin/bash"]')
    host.run("echo hello >/data/greeting")
    done = host.run(
        "docker run --rm --gpus all --network host --ipc host --ulimit nofile=1048576:1048576 --privileged "
        "-v /data:/data small:1 /bin/cat /data/greeting"
    )
    assert done.stdout == "hello\n"
    host.run("docker rmi small:1; rm /data/greeting")


def test_stranger_is_refused(two_hosts: Rig) -> None:
    """Another host on the network, which the key does not open."""
    stranger = two_hosts.add_stranger()
    assert "Permission denied" in ssh(two_hosts, stranger, "true").stderr
    stranger.run(f"exec 3<>/dev/tcp/{two_hosts.head.address}/22 && head -c 4 <&3")


@pytest.mark.whole
def test_faults_can_be_made_and_undone(two_hosts: Rig) -> None:
    """sshd and dockerd stopped, the cable pulled, the link slowed."""
    host = two_hosts.hosts[1]
    with host.without_sshd():
        assert "Connection refused" in ssh(two_hosts, host, "true").stderr
    with host.cut_off():
        assert ssh(two_hosts, host, "true").returncode == 255
    wait_until(lambda: ssh(two_hosts, host, "true").returncode == 0, "ssh after the cable")
    with host.without_docker():
        assert "Cannot connect" in host.run("docker ps", check=False).stderr
    host.set_rate(100)
    assert "100Mbit" in host.run("tc qdisc show dev eth0").stdout
    host.run("tc qdisc del dev eth0 root")
    run_here("tc", "qdisc", "del", "dev", host.link, "root")


@pytest.mark.whole
def test_two_rigs_at_once_and_nothing_is_left(two_hosts: Rig, tmp_path: Path) -> None:
    """A second rig takes other names and addresses; its end leaves no process, interface, control group or file."""
    with start_rig(tmp_path / "second", hosts=4, with_docker=False) as second:
        assert second.number != two_hosts.number
        assert len({host.address for host in second.hosts}) == 4
        assert ssh(second, second.hosts[3], "hostname").stdout == "h4\n"
    assert list_traces(second.number) == []
    assert not [host for host in second.hosts if Path(f"/proc/{host.pid}").exists()]
    assert not (tmp_path / "second").exists()


def test_killed_rig_takes_its_hosts_with_it(tmp_path: Path) -> None:
    """A killed rig process leaves no host running; the next rig sweeps the rest."""
    script = (
        "import pathlib, sys\nfrom tests.rig.rig import start_rig\n"
        f"with start_rig(pathlib.Path({str(tmp_path / 'doomed')!r}), 1, with_docker=False) as rig:\n"
        "    print(rig.number, rig.head.pid, flush=True)\n    sys.stdin.read()\n"
    )
    doomed = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert doomed.stdout is not None
    number, pid = doomed.stdout.readline().split()
    doomed.send_signal(signal.SIGKILL)
    doomed.communicate(timeout=60)
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the host's end")
    with start_rig(tmp_path / "next", 1, with_docker=False, numbers=[int(number)]) as rig:
        assert rig.head.run("hostname").stdout == "h1\n"
    assert list_traces(int(number)) == []
