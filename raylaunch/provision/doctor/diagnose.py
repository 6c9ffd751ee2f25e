"""`raylaunch doctor`: check all hosts at once, judge, print one table, and run the fixes that are safe."""

import json
import shlex
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from raylaunch.config.cluster_file import ClusterFile
from raylaunch.provision.doctor.access_rules import judge_access
from raylaunch.provision.doctor.docker_rules import judge_docker
from raylaunch.provision.doctor.gather import ClusterFacts, gather
from raylaunch.provision.doctor.gpu_rules import judge_gpus
from raylaunch.provision.doctor.machine_rules import judge_machines
from raylaunch.provision.doctor.network_rules import judge_network
from raylaunch.provision.doctor.verdicts import HERE, Verdict, VerdictState, make_rows, sort_verdicts
from raylaunch.provision.ssh import CommandResult, Ssh

_FIX_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What doctor found of a cluster, in the order of the table."""

    cluster: ClusterFile
    verdicts: tuple[Verdict, ...]
    seconds: float

    @property
    def is_fit(self) -> bool:
        """Whether no check failed."""
        return not any(verdict.state is VerdictState.FAILED for verdict in self.verdicts)

    @property
    def safe_fixes(self) -> tuple[Verdict, ...]:
        """Verdicts whose fix `--fix` may run."""
        return tuple(verdict for verdict in self.verdicts if verdict.safe)

    def summarize(self) -> str:
        """How many verdicts of each state, on how many hosts, in how many seconds."""
        counts = {state: sum(verdict.state is state for verdict in self.verdicts) for state in VerdictState}
        shown = ", ".join(f"{count} {state.value}" for state, count in reversed(counts.items()) if count)
        hosts = len(self.cluster.hosts)
        return f"{shown}: {hosts} host{'s' if hosts > 1 else ''}, {self.seconds:.1f} s"

    def to_json(self) -> str:
        """All verdicts as JSON, for a program to read."""
        verdicts = [
            {
                "check": verdict.check,
                "host": verdict.host,
                "state": verdict.state.value,
                "what": verdict.what,
                "fix": verdict.fix or None,
                "fixed_by_fix": verdict.safe,
            }
            for verdict in self.verdicts
        ]
        report = {
            "cluster": self.cluster.cluster_name,
            "hosts": list(self.cluster.hosts),
            "fit": self.is_fit,
            "seconds": round(self.seconds, 2),
            "verdicts": verdicts,
        }
        return json.dumps(report, ensure_ascii=False, indent=2)

    def to_lines(self) -> list[tuple[VerdictState | None, str]]:
        """The table: lines, each with the state that colours it. A fix has its own line, in full."""
        rows = make_rows(self.verdicts)
        all_hosts = {*self.cluster.hosts}
        names = [_name_hosts(row.hosts, all_hosts) for row in rows]
        columns = [row.state.value for row in rows], [row.check for row in rows], names
        widths = [max(map(len, column), default=0) for column in columns]
        lines: list[tuple[VerdictState | None, str]] = []
        for row, name in zip(rows, names, strict=True):
            cells = (row.state.value.ljust(widths[0]), row.check.ljust(widths[1]), name.ljust(widths[2]), row.what)
            lines.append((row.state, "  ".join(cells)))
            if row.fix:
                lines.append((None, f"{' ' * (widths[0] + 2)}to do: {row.fix}"))
        return lines


def diagnose(cluster: ClusterFile, *, model_gb: float | None = None) -> Diagnosis:
    """Check all hosts and judge. Changes nothing anywhere.

    Args:
        model_gb: size of the model in 10^9 bytes, which has to fit on every host's disk.
    """
    facts = gather(cluster)
    return Diagnosis(cluster, tuple(sort_verdicts(judge(facts, cluster, model_gb=model_gb))), facts.seconds)


def judge(facts: ClusterFacts, cluster: ClusterFile, *, model_gb: float | None = None) -> Iterator[Verdict]:
    """The verdicts of all rules."""
    yield from judge_access(facts, cluster)
    yield from judge_docker(facts.hosts, cluster)
    yield from judge_gpus(facts.hosts, cluster)
    yield from judge_machines(facts.hosts, cluster, model_gb=model_gb)
    yield from judge_network(facts.hosts, cluster)


def _name_hosts(hosts: Sequence[str], all_hosts: set[str]) -> str:
    if len(hosts) > 1 and {*hosts} == all_hosts:
        return f"all {len(all_hosts)}"
    return ", ".join(hosts) if len(hosts) <= 3 else f"{', '.join(hosts[:2])} and {len(hosts) - 2} more"


def describe_fix(verdict: Verdict, cluster: ClusterFile) -> str:
    """The command of a safe fix as a user would type it here."""
    if verdict.host == HERE:
        return verdict.fix
    return f"ssh {cluster.ssh_user}@{verdict.host} {shlex.quote(verdict.fix)}"


def run_fixes(diagnosis: Diagnosis, report: Callable[[str], None]) -> int:
    """Run every safe fix, on all hosts at once, and report each result; how many failed."""
    ssh = Ssh.of(diagnosis.cluster)  # no shared connection: a new group needs a new login

    def run(verdict: Verdict) -> CommandResult:
        if verdict.host == HERE:
            return _run_here(verdict.fix)
        return ssh.run(verdict.host, verdict.fix, timeout_s=_FIX_TIMEOUT_S)

    failed = 0
    with ThreadPoolExecutor(max_workers=32) as pool:
        for verdict, result in zip(diagnosis.safe_fixes, pool.map(run, diagnosis.safe_fixes), strict=True):
            failed += result.status != 0
            last = (result.stderr.strip() or result.stdout.strip()).rpartition("\n")[2]
            outcome = "done" if result.status == 0 else f"failed with status {result.status}: {last}"
            report(f"{verdict.host}: {verdict.fix}: {outcome}")
    return failed


def _run_here(command: str) -> CommandResult:
    done = subprocess.run(
        ["bash", "-c", command], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    return CommandResult(done.returncode, done.stdout, done.stderr)
