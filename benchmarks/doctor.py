"""Time of `raylaunch doctor` on 2, 4 and 32 hosts: how it grows with the number of hosts.

    python -m benchmarks.doctor [--rounds 5]     as root; needs what `make rig` needs, and control groups v1

Four hosts in namespaces, each with its own sshd and dockerd (tests/rig). The 32 are simulated: eight addresses on each
of the four, each with an sshd of its own. Two series:

    free      each process has the machine alone: the seconds of 2 and 4 hosts are real, those of 32 are the price of
              32 machines' work on the cores of one
    shared    each host's sshd, and what runs below it, is held to 3 % of a core, however many hosts there are, as real
              hosts have processors of their own: what then grows with their number is doctor itself

Of each run, the processor seconds are kept apart: here (raylaunch and its ssh, the laptop's), and on the hosts (sshd,
the probe, docker's command), which real hosts spend each on its own.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import servers
from tests.rig.host import wait_until
from tests.rig.images import write_small_image
from tests.rig.rig import Rig, start_rig

_IMAGE = "raylaunch/bench:0.32.0"
_COUNTS = (2, 4, 32)
_CPU = Path("/sys/fs/cgroup/cpu")
_ACCOUNT = Path("/sys/fs/cgroup/cpuacct")
_PERIOD_US = 50_000
_SHARE = 0.03


def start_hosts(rig: Rig, home: Path) -> dict[str, Path]:
    """32 addresses on the rig's hosts, each with its own sshd in a control group of its own.

    Returns:
        Address -> its control group.
    """
    for host in rig.hosts:
        host.stop_sshd()  # it listens on every address
    groups: dict[str, Path] = {}
    known = ""
    for number in range(max(_COUNTS)):
        host = rig.hosts[number % len(rig.hosts)]
        address = f"10.77.{rig.number}.{100 + number}"
        group = _CPU / host.cgroup / f"bench{number}"
        account = _ACCOUNT / group.relative_to(_CPU)
        for folder in (group, account):
            folder.mkdir(parents=True, exist_ok=True)
        (group / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
        host.run(
            f"ip addr add {address}/24 dev eth0; echo $$ >{group}/tasks; echo $$ >{account}/tasks; "
            f"exec /usr/sbin/sshd -f /etc/ssh/rig_sshd_config -oListenAddress={address} -oPidFile=/run/sshd{number}.pid"
        )
        groups[address] = group
        known += f"{address} {host.host_key}\n"
        wait_until(lambda group=group: bool((group / "tasks").read_text()), f"sshd of {address}")  # type: ignore[misc]
    (home / ".ssh").mkdir(mode=0o700, parents=True)
    (home / ".ssh" / "known_hosts").write_text(known)
    return groups


def hold(groups: dict[str, Path], share: float | None) -> None:
    """Hold every host to a share of a core, or let all of them go."""
    for group in groups.values():
        (group / "cpu.cfs_quota_us").write_text(str(-1 if share is None else int(_PERIOD_US * share)))


def write_cluster(rig: Rig, addresses: list[str], file: Path) -> Path:
    """A cluster file of these hosts."""
    file.write_text(
        f"cluster_name: bench\nprovider:\n  type: local\n  head_ip: {addresses[0]}\n"
        f"  worker_ips: [{', '.join(addresses[1:])}]\nauth:\n  ssh_user: root\n  ssh_private_key: {rig.key}\n"
        f"docker:\n  image: {_IMAGE}\n  container_name: raylaunch\n  pull_before_run: false\n"
        "  run_options: [--gpus all, --ipc=host]\n"
    )
    return file


def count_cpu_s(rig: Rig) -> tuple[float, float]:
    """Processor seconds so far: of the commands started here, and of the simulated hosts."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    files = (file for host in rig.hosts for file in (_ACCOUNT / host.cgroup).glob("bench*/cpuacct.usage"))
    return used.ru_utime + used.ru_stime, sum(int(file.read_text()) for file in files) / 1e9


def run_doctor(rig: Rig, cluster: Path, home: Path) -> dict[str, Any]:
    """Seconds of one run: of the probing itself, of the command, of processors; how many checks came too late."""
    here_s, hosts_s = count_cpu_s(rig)
    began = time.monotonic()
    done = subprocess.run(
        [str(Path(sys.executable).parent / "raylaunch"), "doctor", str(cluster), "--json", "--model-gb", "1"],
        capture_output=True, text=True, check=False, env=os.environ | {"HOME": str(home)},
    )  # fmt: skip
    whole = time.monotonic() - began
    reported = json.loads(done.stdout)
    states = [verdict["state"] for verdict in reported["verdicts"]]  # of sound hosts: what is not ok came too late
    late = {state: states.count(state) for state in ("failed", "not checked")}
    cpu = [round(now - before, 2) for now, before in zip(count_cpu_s(rig), (here_s, hosts_s), strict=True)]
    return {
        "look_s": reported["seconds"],
        "command_s": round(whole, 2),
        "cpu_here_s": cpu[0],
        "cpu_hosts_s": cpu[1],
        **late,
    }


def measure(rig: Rig, files: dict[int, Path], home: Path, rounds: int) -> dict[str, Any]:
    """Medians and rounds of one series; a run before the first warms up and is not kept."""
    run_doctor(rig, files[_COUNTS[0]], home)
    kept = []
    for _ in range(rounds):
        kept.append({str(count): run_doctor(rig, file, home) for count, file in files.items()})
        print(kept[-1], flush=True)
    looks = {str(count): statistics.median(row[str(count)]["look_s"] for row in kept) for count in files}
    return {
        "median_look_s": looks,
        "ratio_4_to_2": round(looks["4"] / looks["2"], 3),
        "ratio_32_to_2": round(looks["32"] / looks["2"], 3),
        "rounds": kept,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with servers.scratch() as folder, start_rig(folder / "rig", hosts=4) as rig:
        image = write_small_image(folder / "small.tar")
        rig.head.import_image(image, _IMAGE, "ENV CUDA_VERSION=13.0.1")
        for host in rig.workers:
            rig.head.copy_image(_IMAGE, host)
        home = folder / "home"
        groups = start_hosts(rig, home)
        addresses = [*groups]
        files = {count: write_cluster(rig, addresses[:count], folder / f"{count}.yaml") for count in _COUNTS}
        free = measure(rig, files, home, options.rounds)
        hold(groups, _SHARE)
        shared = measure(rig, files, home, options.rounds)
    servers.write_result("doctor", {"unit": "seconds of looking", "share": _SHARE, "free": free, "shared": shared})


if __name__ == "__main__":
    main()
