"""`raylaunch doctor`: check all hosts at once, judge, print one table, and run the fixes that are safe."""

import json
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from raylaunch.config.cluster_file import ClusterFile
from raylaunch.provision.doctor.access_rules import judge_access, write_login
from raylaunch.provision.doctor.docker_rules import judge_docker
from raylaunch.provision.doctor.gather import ClusterFacts, gather
from raylaunch.provision.doctor.gpu_rules import judge_gpus
from raylaunch.provision.doctor.machine_rules import judge_machines
from raylaunch.provision.doctor.network_rules import judge_network
from raylaunch.provision.doctor.verdicts import HERE, Verdict, VerdictState, sort_verdicts
from raylaunch.provision.ssh import CommandResult, Ssh

_FIX_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What doctor found of a cluster, in the order of the table (table.make_table)."""

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


def diagnose(
    cluster: ClusterFile,
    *,
    model_gb: float | None = None,
    model_path: str | None = None,
    api_port: int | None = None,
) -> Diagnosis:
    """Check all hosts and judge. Changes nothing anywhere.

    Args:
        model_gb: size of the model in 10^9 bytes, which has to fit on every host's disk.
        model_path: of the model in the containers; None: in the volume of models.
        api_port: the port that a launch serves on, which has to be free on the head.
    """
    facts = gather(cluster, model_path=model_path)
    verdicts = judge(facts, cluster, model_gb=model_gb, api_port=api_port)
    return Diagnosis(cluster, tuple(sort_verdicts(verdicts)), facts.seconds)


def judge(
    facts: ClusterFacts, cluster: ClusterFile, *, model_gb: float | None = None, api_port: int | None = None
) -> Iterator[Verdict]:
    """The verdicts of all rules."""
    yield from judge_access(facts, cluster)
    yield from judge_docker(facts.hosts, cluster)
    yield from judge_gpus(facts.hosts, cluster)
    yield from judge_machines(facts.hosts, cluster, model_gb=model_gb)
    yield from judge_network(facts.hosts, cluster, api_port=api_port)


def describe_fix(verdict: Verdict, cluster: ClusterFile) -> str:
    """The command of a safe fix as a user would type it here."""
    if verdict.host == HERE:
        return verdict.fix
    return write_login(cluster, verdict.host, verdict.fix)


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
