"""`raylaunch doctor`: look at all hosts at once, judge, tell in one table, and mend what is safe to mend."""

import concurrent.futures
import os
import shlex
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raylaunch.config.cluster_file import ClusterFile
from raylaunch.provision.doctor.access_rules import judge_access
from raylaunch.provision.doctor.docker_rules import judge_docker
from raylaunch.provision.doctor.gather import Look, look
from raylaunch.provision.doctor.gpu_rules import judge_gpus
from raylaunch.provision.doctor.machine_rules import judge_machines
from raylaunch.provision.doctor.network_rules import judge_network
from raylaunch.provision.doctor.verdicts import HERE, State, Verdict, make_rows, sort_verdicts, to_json
from raylaunch.provision.ssh import Ssh

_MEND_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What doctor found of a cluster, in the order in which it is told."""

    cluster: ClusterFile
    verdicts: tuple[Verdict, ...]
    seconds: float

    @property
    def is_fit(self) -> bool:
        """Whether nothing is red."""
        return not any(verdict.state is State.RED for verdict in self.verdicts)

    @property
    def mends(self) -> tuple[Verdict, ...]:
        """Verdicts whose command `--fix` may run."""
        return tuple(verdict for verdict in self.verdicts if verdict.mend)

    def summarize(self) -> str:
        """How many of each state, on how many hosts, and how long it took."""
        counts = {state: sum(verdict.state is state for verdict in self.verdicts) for state in State}
        told = ", ".join(f"{count} {state.value}" for state, count in reversed(counts.items()) if count)
        hosts = len(self.cluster.hosts)
        return f"{told}: {hosts} host{'s' if hosts > 1 else ''}, {self.seconds:.1f} s"

    def to_json(self) -> dict[str, Any]:
        """For a program to read."""
        return {
            "cluster": self.cluster.cluster_name,
            "hosts": list(self.cluster.hosts),
            "fit": self.is_fit,
            "seconds": round(self.seconds, 2),
            "verdicts": [to_json(verdict) for verdict in self.verdicts],
        }

    def to_lines(self) -> list[tuple[State | None, str]]:
        """The table: lines, each with the state that colours it. What to do stands whole in a line of its own."""
        rows = make_rows(self.verdicts)
        everybody = {*self.cluster.hosts}
        names = [_name_hosts(row.hosts, everybody) for row in rows]
        widths = [
            max(map(len, column), default=0)
            for column in ([row.state.value for row in rows], [r.check for r in rows], names)
        ]
        lines: list[tuple[State | None, str]] = []
        for row, name in zip(rows, names, strict=True):
            cells = (row.state.value.ljust(widths[0]), row.check.ljust(widths[1]), name.ljust(widths[2]), row.what)
            lines.append((row.state, "  ".join(cells)))
            if row.fix:
                lines.append((None, f"{' ' * (widths[0] + 2)}to do: {row.fix}"))
        return lines


def diagnose(cluster: ClusterFile, *, model_gb: float | None = None) -> Diagnosis:
    """Look at all hosts and judge. Changes nothing anywhere.

    Args:
        model_gb: size of the model in 10^9 bytes, which has to fit on every host's disk.
    """
    seen = look(cluster)
    return Diagnosis(cluster, tuple(sort_verdicts(judge(seen, cluster, model_gb=model_gb))), seen.seconds)


def judge(seen: Look, cluster: ClusterFile, *, model_gb: float | None = None) -> Iterator[Verdict]:
    """All rules over what was seen."""
    yield from judge_access(seen, cluster)
    yield from judge_docker(seen.hosts, cluster)
    yield from judge_gpus(seen.hosts, cluster)
    yield from judge_machines(seen.hosts, cluster, model_gb=model_gb)
    yield from judge_network(seen.hosts, cluster)


def _name_hosts(hosts: Sequence[str], everybody: set[str]) -> str:
    if len(hosts) > 1 and {*hosts} == everybody:
        return f"all {len(everybody)}"
    return ", ".join(hosts) if len(hosts) <= 3 else f"{', '.join(hosts[:2])} and {len(hosts) - 2} more"


def describe_mend(verdict: Verdict, cluster: ClusterFile) -> str:
    """The command that would be run, and where, as one would type it."""
    if verdict.host == HERE:
        return verdict.mend
    return f"ssh {cluster.ssh_user}@{verdict.host} {shlex.quote(verdict.mend)}"


def mend(diagnosis: Diagnosis, report: Callable[[str], None]) -> int:
    """Run every mend, on all hosts at once; how many failed. Each is reported with what it said."""
    ssh = Ssh.of(diagnosis.cluster, Path("/nonexistent"))  # no shared connection: a new group needs a new login

    def run(verdict: Verdict) -> tuple[Verdict, int, str]:
        command = ["bash", "-c", verdict.mend] if verdict.host == HERE else ssh.command(verdict.host, verdict.mend)
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_MEND_TIMEOUT_S,
                check=False,
                env=os.environ | {"LC_ALL": "C"},
            )
        except subprocess.TimeoutExpired:
            return verdict, 1, f"no end within {_MEND_TIMEOUT_S:.0f} s"
        return verdict, done.returncode, (done.stderr.strip() or done.stdout.strip()).rpartition("\n")[2]

    failed = 0
    with concurrent.futures.ThreadPoolExecutor(max_workers=32) as pool:
        for verdict, status, said in pool.map(run, diagnosis.mends):
            failed += status != 0
            outcome = "done" if status == 0 else f"failed with status {status}: {said}"
            report(f"{verdict.host}: {verdict.mend}: {outcome}")
    return failed
