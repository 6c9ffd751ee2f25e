"""Run the trials of collectives on the ranks' actors: Gloo over all, NCCL in each stage, then over all."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from raylaunch.node.network.prober import Trial, TrialResult
from raylaunch.preflight.network.collective_rules import WITHOUT_PEER_ACCESS
from raylaunch.preflight.network.measured import LOST, GroupTrial, NetworkMeasured, group_stages

_BARRIER_S = 5.0
_GLOO_S, _NCCL_S = 8.0, 20.0
"""Of one trial after the import; a healthy one takes 1 to 4 s."""
_LOST = ({"step": LOST},)
_REDUCED_VALUES = 4 << 20
_MATRIX = 4096

Key = TypeVar("Key")


def gather(pending: Mapping[Key, Any], timeout_s: float) -> dict[Key, Any]:
    """The answers that came in time, in the order asked; one whose node or actor died is left out."""
    import ray

    done, _ = ray.wait(list(pending.values()), num_returns=max(1, len(pending)), timeout=timeout_s)
    answers = {}
    for key, reference in pending.items():
        if reference in done:
            try:
                answers[key] = ray.get(reference)
            except ray.exceptions.RayError:
                continue
    return answers


class _Runner:
    """Starts trials of groups on the ranks' actors."""

    def __init__(self, measured: NetworkMeasured, actors: Mapping[int, Any], import_s: float) -> None:
        self._ip = {place.rank: place.node.ip for place in measured.places}
        self._variables = {one.node_ip: one.environment for one in measured.facts}
        self._actors = actors
        self._gpus: dict[int, Mapping[str, Any]] = {}
        self._import_s = import_s

    def find_gpus(self) -> None:
        """Let each rank see its node's GPUs, as vLLM's ranks do."""
        own = gather({rank: actor.find_gpus.remote() for rank, actor in self._actors.items()}, _NCCL_S)
        for rank, gpus in own.items():
            here = [gpu for other in sorted(own) if self._ip[other] == self._ip[rank] for gpu in own[other]]
            visible = {"CUDA_VISIBLE_DEVICES": ",".join(here)}
            self._gpus[rank] = {"device": here.index(gpus[0]), "environment": visible}

    def run(
        self, groups: Mapping[str, Sequence[int]], trial: Trial, *, environment: Mapping[str, str] | None = None
    ) -> list[GroupTrial]:
        """Run a trial in several groups at once, when all have imported PyTorch: one would time out on a later one."""
        imports = {rank: actor.wait_imported.remote(self._import_s) for rank, actor in self._actors.items()}
        gather(imports, self._import_s + _NCCL_S)
        heads = {name: ranks[0] for name, ranks in groups.items()}
        ports = gather({name: self._actors[head].find_port.remote() for name, head in heads.items()}, _NCCL_S)
        pending = {}
        for name, ranks in groups.items():
            for number, rank in enumerate(ranks):
                gpu = self._gpus.get(rank, {}) if trial.backend == "nccl" else {}
                asked = replace(
                    trial,
                    name=name,
                    rank=number,
                    world=len(ranks),
                    host=self._ip[ranks[0]],
                    port=ports.get(name, 0),
                    device=gpu.get("device", 0),
                    environment={
                        **self._variables.get(self._ip[rank], {}),
                        **gpu.get("environment", {}),
                        **(environment or {}),
                    },
                )
                pending[name, rank] = self._actors[rank].run.remote(asked)
        answers = gather(pending, trial.deadline_s + 10.0)
        return [
            GroupTrial(
                name, tuple(ranks), tuple(answers.get((name, rank)) or TrialResult(rank, _LOST) for rank in ranks)
            )
            for name, ranks in groups.items()
        ]


def run_trials(
    measured: NetworkMeasured, actors: Mapping[int, Any], *, uses_gpus: bool, import_s: float
) -> tuple[GroupTrial, ...]:
    """Run them one after the other, until one fails that the later ones build on.

    Args:
        actors: rank -> its NetworkProber; without GPUs one for each node.
        import_s: longest time for PyTorch's import.
    """
    ranks = sorted(actors)
    if len(ranks) < 2:
        return ()
    runner = _Runner(measured, actors, import_s)
    barrier = ({"kind": "barrier", "timeout_s": _BARRIER_S},)
    gloo = Trial("gloo", "gloo", 0, 0, "", 0, timeout_s=_BARRIER_S, deadline_s=_GLOO_S, tasks=barrier)
    found = runner.run({"gloo": ranks}, gloo)
    if not uses_gpus or not found[0].has_passed:
        return tuple(found)
    runner.find_gpus()
    stages, shapes = group_stages(measured.places), measured.shapes
    nccl = Trial("nccl", "nccl", 0, 0, "", 0, timeout_s=_NCCL_S, deadline_s=_NCCL_S)
    reduce_task: Mapping[str, Any] = {"kind": "allreduce", "count": _REDUCED_VALUES}
    matmul: Mapping[str, Any] = {"kind": "matmul", "size": _MATRIX}
    environment: dict[str, str] = {}
    if len(stages[0]) > 1:
        groups = {f"tp {number}": stage for number, stage in enumerate(stages)}
        within = replace(nccl, tasks=(reduce_task,))
        found += runner.run(groups, within)
        without = {f"{name}{WITHOUT_PEER_ACCESS}": stage for name, stage in groups.items()}
        found += runner.run(without, within, environment={"NCCL_P2P_DISABLE": "1"})
        if not all(trial.has_passed for trial in found if not trial.name.endswith(WITHOUT_PEER_ACCESS)):
            environment = {"NCCL_P2P_DISABLE": "1"}
            if not all(trial.has_passed for trial in found if trial.name.endswith(WITHOUT_PEER_ACCESS)):
                return tuple(found)
    tasks = [reduce_task, matmul]
    if len(stages) > 1 and shapes is not None:
        share = len(stages[0])
        tasks.append(
            {
                "kind": "hops",
                "stages": stages,
                "prefill": shapes.prefill_hop_bytes // share,
                "decode": shapes.decode_hop_bytes // share,
            }
        )
    return (*found, *runner.run({"nccl": ranks}, replace(nccl, tasks=tuple(tasks)), environment=environment))


def list_proved(measured: NetworkMeasured) -> tuple[str, ...]:
    """What works, a phrase each."""
    proved = []
    for trial in measured.trials:
        if not trial.has_passed:
            continue
        name = f"Gloo over {len(trial.ranks)} ranks" if trial.name == "gloo" else f"NCCL {_describe_group(trial)}"
        facts = list(_describe_transports(trial))
        if rate := trial.find_reduce_rate():
            facts.append(f"all-reduce {rate / 1e9:,.1f} GB/s")
        proved.append(name + (f" ({'; '.join(facts)})" if facts else ""))
    return tuple(proved)


def list_not_proved(measured: NetworkMeasured, *, is_logical: bool, is_reserved: bool) -> tuple[str, ...]:
    """What was not tried and why, a phrase each."""
    if len(measured.places) == 1:
        return ("anything: one rank talks to no other",)
    if len({place.node.ip for place in measured.places}) == 1 and (is_logical or not is_reserved):
        why = "logical" if is_logical else "in use"
        return (f"anything: all ranks are on one node, and its GPUs are {why}",)
    missing = [] if measured.find_trial("gloo") else ["Gloo"]
    if not any(trial.name != "gloo" for trial in measured.trials):
        missing += ["NCCL", "peer access", "hops between stages"]
    why = "the GPUs are logical" if is_logical else "the GPUs are in use" if not is_reserved else ""
    if missing and ("Gloo" in missing or not why):
        why = "what comes before has failed"
    return (f"{', '.join(missing)}: {why}",) if missing else ()


def _describe_transports(trial: GroupTrial) -> Iterator[str]:
    logs = trial.read_logs().values()
    kinds = dict.fromkeys(kind for log in logs for kind in log.list_kinds())
    if kinds:
        yield ", ".join(kinds)
    if any(kind.startswith("NET/") for kind in kinds):
        used = dict.fromkeys(name for log in logs for name in log.devices or log.interfaces)
        yield f"over {', '.join(used)}"


def _describe_group(trial: GroupTrial) -> str:
    if trial.name == "nccl":
        return f"over {len(trial.ranks)} ranks"
    return f"in {trial.name.replace('tp', 'TP group')}"
