"""`raylaunch doctor` against real hosts: sound ones, and one fault after another."""

import contextlib
import subprocess
from pathlib import Path

import pytest

from raylaunch.provision.template import ClusterPlan, write
from tests.rig import command_faults, host_faults  # noqa: F401 (they fill FAULTS)
from tests.rig.fault import FAULTS, Fault, undone
from tests.rig.images import write_small_image
from tests.rig.laptop import IMAGE, Found, Laptop
from tests.rig.owner import Owner
from tests.rig.rig import Rig

pytestmark = [pytest.mark.root, pytest.mark.rig]

AT_ONCE = (
    ".bashrc that exits",
    "unresolvable hostname",
    "different image on the two hosts",
    "stale container of an earlier run",
    "/tmp full",
    "one host with fewer GPUs",
    "key only from here",
    "a port taken",
    "a worker's port taken",
    "firewall for all but Ray's ports",
)
"""Faults of which each fails a check of its own."""
APART = frozenset({"worker ssh down", "unknown host key", "changed host key"})
"""Faults that hide other checks, and are made in two seconds."""


@pytest.fixture(scope="module")
def equipped(two_hosts: Rig, small_image: Path) -> Rig:
    """Both hosts with the same image under the cluster's tag."""
    two_hosts.head.import_image(small_image, IMAGE, "ENV CUDA_VERSION=13.0.1", 'CMD ["/bin/bash"]')
    two_hosts.head.copy_image(IMAGE, two_hosts.workers[0])
    return two_hosts


@pytest.fixture
def laptop(equipped: Rig, tmp_path: Path) -> Laptop:
    equipped.write_known_hosts(Path.home() / ".ssh" / "known_hosts")
    laptop = Laptop(equipped, tmp_path / "cluster.yaml")
    laptop.write_cluster()
    return laptop


def test_sound_hosts_are_fit(laptop: Laptop) -> None:
    """Nothing failed, nothing unchecked but the model's disk; and with its size, nothing at all."""
    found = laptop.doctor()
    assert (found.status, found.list_states("failed")) == (0, set())
    assert {check for check, _ in found.list_states("warning")} <= {"memory"}, "memory is this machine's, shared by all"
    assert {check for check, _ in found.list_states("not checked")} == {"model disk"}
    found = laptop.doctor("--model-gb", "0.1")
    assert not found.list_states("not checked")
    assert laptop.doctor("--model-gb", "100000").list_states("failed") == {
        ("model disk", host.address) for host in laptop.rig.hosts
    }
    for host in laptop.rig.hosts:
        assert host.run("ls /tmp /dev/shm").stdout.split() == ["/dev/shm:", "/tmp:"], "doctor left something"


def test_faults_at_once(laptop: Laptop) -> None:
    """Ten faults: ten checks fail, each with its text and its command."""
    faults = [fault for fault in FAULTS if fault.name in AT_ONCE]
    assert len(faults) == len(AT_ONCE)
    with contextlib.ExitStack() as undone_last:
        for fault in faults:
            undone_last.enter_context(fault.make(laptop, laptop.find_host(fault.where)))
        found = laptop.doctor()
    assert found.list_states("failed") == {(fault.check, laptop.find_host(fault.where).address) for fault in faults}
    for fault in faults:
        check_verdict(laptop, fault, found)


@pytest.mark.parametrize(
    "fault",
    [pytest.param(fault, id=fault.name, marks=[] if fault.name in APART else pytest.mark.whole) for fault in FAULTS],
)
def test_fault_is_reported(laptop: Laptop, fault: Fault) -> None:
    """Exactly one check of one host fails, with the right text and command; exit status 1."""
    host = laptop.find_host(fault.where)
    with fault.make(laptop, host):
        found = laptop.doctor()
    assert found.list_states("failed") == {(fault.check, host.address)}
    check_verdict(laptop, fault, found)
    if fault.check == "ssh":
        assert ("all other checks", host.address) in found.list_states("not checked")
        assert not {check for check, where in found.list_states("ok") if where == host.address}


def check_verdict(laptop: Laptop, fault: Fault, found: Found) -> None:
    """Exit status 1 within half a minute, with the fault's text and the command against it."""
    assert found.status == 1
    verdict = found.find(fault.check, laptop.find_host(fault.where).address)
    assert fault.what.replace("HEAD", laptop.rig.head.address) in verdict["what"]
    assert fault.fix in verdict["fix"]
    assert found.seconds < 30


def test_names_and_keys_of_this_machine(laptop: Laptop, tmp_path: Path) -> None:
    """A name that does not resolve; a key that is missing, is open to others, or asks for a passphrase."""
    laptop.cluster.write_text(laptop.cluster.read_text().replace(laptop.rig.workers[0].address, "no-such-host"))
    verdict = laptop.doctor().find("ssh", "no-such-host")
    assert "its name does not resolve on this machine" in verdict["what"]
    laptop.write_cluster(key=tmp_path / "absent")
    absent = laptop.doctor()
    assert "does not exist" in absent.find("key", "this machine")["what"]
    assert absent.list_states("not checked") == {("all other checks", host.address) for host in laptop.rig.hosts}
    locked = tmp_path / "locked"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", locked], check=True)
    laptop.write_cluster(key=locked)
    assert "asks for a passphrase" in laptop.doctor().find("key", "this machine")["what"]
    opened = tmp_path / "opened"
    opened.write_bytes(laptop.rig.key.read_bytes())
    opened.chmod(0o644)
    laptop.write_cluster(key=opened)
    assert laptop.doctor().find("key", "this machine")["fix"] == f"chmod 600 {opened}"


def test_warnings_do_not_fail(laptop: Laptop) -> None:
    """RTX 50-series cards behind an IOMMU that translates: advice, and none once it was followed."""
    device = "echo 0x10de >vendor; echo 0x030000 >class; echo 0x2b85 >device"
    card = f"{device}; mkdir iommu_group; echo DMA-FQ >iommu_group/type"
    cards = f"for i in {{0..7}}; do mkdir -p /sys/bus/pci/devices/$i; cd /sys/bus/pci/devices/$i; {card}; done"
    with contextlib.ExitStack() as restored:
        for host in laptop.rig.hosts:
            host.run(f"mount -t tmpfs tmpfs /sys/bus; {cards}; echo 'NAME=\"NVIDIA GeForce RTX 5090\"' >/etc/rig-gpus")
            restored.enter_context(undone(host, "rm /etc/rig-gpus; umount /sys/bus"))
        found = laptop.doctor()
        assert found.status == 0
        assert {check for check, _ in found.list_states("warning")} - {"memory"} == {"peer access"}
        assert "iommu=pt" in found.find("peer access", laptop.rig.head.address)["fix"]
        laptop.cluster.write_text(
            laptop.cluster.read_text().replace("--ipc=host]", "--ipc=host, -e NCCL_P2P_DISABLE=1]")
        )
        assert {check for check, _ in laptop.doctor().list_states("warning")} <= {"memory"}


def test_host_without_python_is_never_ok(laptop: Laptop) -> None:
    """What needs Python there is not checked, on both sides."""
    worker = laptop.rig.workers[0]
    worker.run("mv /usr/bin/python3 /usr/bin/kept")
    with undone(worker, "mv /usr/bin/kept /usr/bin/python3"):
        found = laptop.doctor()
    assert found.status == 0
    assert {("clock", worker.address), ("firewall", worker.address)} <= found.list_states("not checked")
    assert ("firewall", laptop.rig.head.address) in found.list_states("not checked")
    assert ("ports", worker.address) in found.list_states("ok")


def test_fix_asks_fixes_and_checks_again(laptop: Laptop) -> None:
    """Shown first; a no changes nothing; a yes runs the safe fixes."""
    worker = laptop.rig.workers[0]
    worker.run(f"mv /root/.bashrc /root/.kept; hostname venus; docker create --name raylaunch {IMAGE}")
    with undone(worker, "mv /root/.kept /root/.bashrc; hostname h2; docker rm -f raylaunch 2>/dev/null; true"):
        refused = laptop.run("--fix", stdin="n\n")
        assert refused.returncode == 1
        assert f"ssh -i {laptop.rig.key} root@{worker.address} 'touch ~/.bashrc'" in refused.stderr
        assert "run these?" in refused.stderr
        assert worker.run("test -e /root/.bashrc", check=False).returncode == 1
        fixed = laptop.run("--fix", "--yes")
        assert fixed.returncode == 0, fixed.stdout
        assert "docker rm -f raylaunch: done" in fixed.stderr
        assert "run these?" not in fixed.stderr
    lines = fixed.stdout.splitlines()
    assert not [line for line in lines if line.startswith("failed")]
    assert "nothing that --fix could fix" in laptop.run("--fix").stderr


def test_failed_lines_come_last_each_with_its_fix(laptop: Laptop) -> None:
    """The end of the table is what is wrong: complete commands, no folding."""
    worker = laptop.rig.workers[0]
    worker.run("mv /usr/bin/docker /usr/bin/kept")
    with undone(worker, "mv /usr/bin/kept /usr/bin/docker"):
        done = laptop.run()
    failed, what, to_do = done.stdout.splitlines()[-3:]
    assert failed == f"failed: docker on {worker.address}"
    assert what.strip() == "docker is not installed"
    assert "apt-get install -y docker.io" in to_do
    assert "NVIDIA runtime" not in done.stdout  # it only follows
    assert done.stderr.endswith(f"not ready: 1 problem on {worker.address}\n")


def test_different_images_are_refused(two_hosts: Rig, tmp_path: Path) -> None:
    """A different image on each host by one name: reported before Ray's launcher begins."""
    laptop = Owner.of(two_hosts, tmp_path, "images")
    for number, host in enumerate(laptop.rig.hosts):
        host.import_image(write_small_image(tmp_path / f"{number}.tar"), "rig/small:1", f"ENV NUMBER={number}")
    file = tmp_path / "cluster.yaml"
    hosts = [host.address for host in laptop.rig.hosts]
    write(ClusterPlan(hosts=hosts, user="root", key=str(laptop.rig.key), name="images", image="rig/small:1"), file)
    refused = laptop.run("up", str(file))
    assert refused.returncode == 1
    assert f"failed: image on {hosts[1]}\n    rig/small:1 is a different image" in refused.stderr
    assert "nothing was changed" in refused.stderr
    head = laptop.rig.head
    head.run("docker tag rig/small:1 rig/other:1; docker save rig/other:1 >/tmp/other.tar; docker rmi rig/other:1")
    useless = laptop.run("up", str(file), "--image-archive", str(head.disk / "tmp" / "other.tar"))
    assert useless.returncode == 1
    assert "have different images by the name rig/small:1, though" in useless.stderr
    assert laptop.list_traces() == []
    for host in laptop.rig.hosts:
        host.run("docker rmi rig/small:1; docker rmi rig/other:1 2>/dev/null; rm -f /tmp/other.tar")
