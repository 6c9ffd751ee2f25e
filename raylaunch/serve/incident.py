"""Incidents: one folder for each death or wedge of an engine, for the analysis afterwards; secrets are masked.

::

    ~/.raylaunch/incidents/20261124-061502-8080/
      incident.json    cause in one sentence, timeline, duration, outcome
      engine.log       the last lines of the log: server, EngineCore and workers, in order
      ranks.log        the last lines of each process
      ray.json         the last state of nodes and workers in Ray
      gpus.json        the last sample of each node's GPUs and memory
"""

import itertools
import json
import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

from raylaunch.base import paths
from raylaunch.base import text as words
from raylaunch.base.errors import ServiceError
from raylaunch.base.paths import write_quietly
from raylaunch.base.viewpoint import Viewpoint
from raylaunch.config.launch import LaunchConfig
from raylaunch.explain.log_lines import parse_line
from raylaunch.explain.read import explain_lines
from raylaunch.explain.signatures import SYMPTOM_BELOW, fix_of
from raylaunch.serve.attempt import Attempt
from raylaunch.serve.faults import Fault
from raylaunch.serve.service_record import Service

_LOG_LINES = 400
_RANK_LINES = 40
_EXPLAINED_LINES = 5000
_KEPT = 200
"""Older ones are removed."""
_NAMING = threading.Lock()
"""Several replicas may fail in one second."""
_SHORTEST_SECRET = 4
"""In characters: a shorter value may be ordinary text."""


@dataclass(frozen=True)
class Incident:
    """A death or wedge of an engine, and what followed."""

    id: str
    port: int
    model: str
    cause: str
    """faults.Fault.cause."""
    what: str
    """The cause in one sentence."""
    fix: str = ""
    key: str = ""
    """The signature (explain/signatures.txt) of its cause."""
    began_at: float = 0.0
    """Wall clock, seconds since 1970, as in the timeline."""
    requests: int = 0
    """Running requests, which got an error."""
    timeline: tuple[tuple[float, str], ...] = ()
    ended_at: float | None = None
    outcome: str = "going on"
    """"going on", "serving again", "stopped" or "gave up"."""
    replica: int = 0
    left: tuple[str, ...] = ()
    """Pids on this machine that had to be killed."""

    @property
    def folder(self) -> Path:
        """Its folder."""
        return paths.home() / "incidents" / self.id

    def note(self, text: str) -> Self:
        """The incident with one more line in its timeline, saved."""
        return replace(self, timeline=(*self.timeline, (time.time(), text))).save()

    def note_end(self, killed: Sequence[int]) -> Self:
        """The incident with the end of its engine, saved; `killed` are pids that did not end by themselves."""
        pids = tuple(map(str, killed))
        return replace(self, left=pids).note("ended" + (f"; had to be killed: {', '.join(pids)}" if pids else ""))

    def close(self, outcome: str) -> Self:
        """The incident with its outcome, saved."""
        return replace(self, outcome=outcome, ended_at=time.time()).save()

    def save(self) -> Self:
        """Write incident.json; a full disk only causes a warning."""
        write_quietly(self.folder / "incident.json", json.dumps(asdict(self), ensure_ascii=False, indent=1))
        return self

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """The incident that `save` wrote.

        Raises:
            OSError, ValueError, TypeError, KeyError: the file is not one.
        """
        fields = json.loads(path.read_text())
        fields["timeline"] = tuple((float(at), str(text)) for at, text in fields["timeline"])
        return cls(**fields | {"left": tuple(fields["left"])})

    def to_lines(self) -> list[str]:
        """For people."""
        lines = [f"{self.id}: {self.what}"]
        lines += [f"what to do: {self.fix}"] if self.fix else []
        lines += [f"{self.requests} request(s) had an error; port {self.port}, {self.model}"]
        lines += [f"  {at - self.began_at:+8.1f} s  {text}" for at, text in self.timeline]
        ended = f" after {self.ended_at - self.began_at:.1f} s" if self.ended_at else ""
        return [*lines, f"outcome: {self.outcome}{ended}", f"folder: {self.folder}"]


def begin(service: Service, fault: Fault, requests: int, replica: int = 0) -> Incident:
    """Open an incident's folder.

    Args:
        requests: requests that were running.
        replica: whose engine it was.
    """
    now = time.time()
    name = f"{time.strftime('%Y%m%d-%H%M%S', time.localtime(now))}-{service.port}"
    folder = paths.home() / "incidents"
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    with _NAMING:
        incident = Incident(
            id=next(free for free in names if not (folder / free).exists()),
            port=service.port,
            model=service.models[0],
            cause=fault.cause,
            what=fault.what,
            fix=fault.fix or (fix_of(fault.key) if fault.key else ""),
            key=fault.key,
            began_at=now,
            requests=requests,
            replica=replica,
            timeline=((now, fault.what),),
        )
        _drop_old(folder)
        return incident.save()


def _drop_old(folder: Path) -> None:
    try:
        for old in sorted(entry for entry in folder.iterdir() if entry.is_dir())[: -_KEPT + 1]:
            for file in old.iterdir():
                file.unlink()
            old.rmdir()
    except OSError:
        return


def add_evidence(incident: Incident, attempt: Attempt, launch: LaunchConfig) -> Incident:
    """Keep what was seen last: the log's tail, each process's own, Ray's state, GPUs and memory; secrets masked.

    Returns:
        The incident, with what to do about the cause that the log has, if it has one.
    """
    log = attempt.engine.read_log()
    pulse = asdict(attempt.driver.pulse) if attempt.driver else {}
    nodes = pulse.pop("nodes", {})
    secrets = find_secrets(launch.dump(mask=False), os.environ)

    def write(name: str, text: str) -> None:
        write_quietly(incident.folder / name, hide(text, secrets))

    write("engine.log", "\n".join(log[-_LOG_LINES:]) + "\n")
    write("ranks.log", _group_by_process(log))
    write("ray.json", json.dumps(pulse, indent=1))
    write("gpus.json", json.dumps(nodes, indent=1))
    causes = explain_lines(log[-_EXPLAINED_LINES:]).causes
    if not causes or causes[0].weight < SYMPTOM_BELOW:
        return incident
    return replace(incident, key=causes[0].key, fix=causes[0].fix).note(f"the log explains it: {causes[0].what}")


def _group_by_process(log: Sequence[str]) -> str:
    """The last lines of each process that wrote to the log."""
    by_process: dict[str, list[str]] = {}
    for line in log:
        source = parse_line(line).source
        name = f"{source.name or 'server'}{f' pid={source.pid}' if source.pid else ''}"
        by_process.setdefault(f"{name}{f' ip={source.ip}' if source.ip else ''}", []).append(line)
    parts = [f"== {name}\n" + "\n".join(lines[-_RANK_LINES:]) + "\n" for name, lines in by_process.items()]
    return "\n".join(parts)


def find_secrets(*sources: object) -> tuple[str, ...]:
    """Values with secret names in a launch's blocks and in the environment, longest first: they must not be written."""
    found: set[str] = set()

    def walk(value: object, secret: bool) -> None:
        if isinstance(value, Mapping):
            for key, entry in value.items():
                walk(entry, secret or words.is_secret(str(key)))
        elif isinstance(value, list | tuple):
            for entry in value:
                walk(entry, secret)
        elif secret and isinstance(value, str) and len(value) >= _SHORTEST_SECRET:
            found.add(value)

    walk(sources, False)
    return tuple(sorted(found, key=len, reverse=True))


def hide(text: str, secrets: Sequence[str]) -> str:
    """`text` with every secret masked."""
    for secret in secrets:
        text = text.replace(secret, words.MASK)
    return text


def list_incidents() -> list[Incident]:
    """All incidents on this machine, oldest first; unreadable ones are skipped."""
    found = []
    for path in sorted((paths.home() / "incidents").glob("*/incident.json")):
        try:
            found.append(Incident.from_file(path))
        except (OSError, ValueError, TypeError, KeyError):
            continue
    return found


def find_incident(name: str) -> Incident:
    """One incident by its id, or "last".

    Raises:
        ServiceError: it does not exist.
    """
    known = list_incidents()
    chosen = known[-1:] if name == "last" else [incident for incident in known if incident.id == name]
    if not chosen:
        view = Viewpoint.of_this_process()
        raise ServiceError(
            f"no incident {name} on {view.place}", fix=f"`{view.command('incidents')}` lists the incidents"
        )
    return chosen[0]
