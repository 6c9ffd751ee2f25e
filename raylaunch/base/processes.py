"""Child processes that end with all their descendants, and process identities that survive pid reuse (Linux).

/proc is read here directly. psutil 7.2 would lose two things. Its create_time() is wall-clock time, which changes when
the clock is set, so a recorded identity would no longer match. Its environ() stops at the first empty entry, so it
finds no mark in a process that wrote a title over the start of its environment. (For a poll over 110 processes it needs
3.1 ms of CPU instead of 2.2, and 1.7 MB.)
"""

import contextlib
import ctypes
import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import IO, Self

from raylaunch.base import rank_names

MARK_VARIABLE = "RAYLAUNCH_MARK"
"""In the environment of every process of one start of an engine, on every node; a private Ray has one of its own."""
RANK_TITLES = (*(f"ray::{name}" for name in rank_names.CLASSES), "VLLM::Worker")
"""Beginnings of the titles of processes that carry a rank: Ray's, and vLLM's without Ray."""
OPEN_FILES = 65536
KEEP_VISIBLE: Mapping[str, str] = MappingProxyType({"SPT_NOENV": "1"})
"""Environment of processes that `list_marked` must find although they set a title.

Otherwise setproctitle (1.3.8, Ray 2.60) writes the title over the environment, up to the first variable that the
process has changed. Whether the mark is in that part varies: the raylet passes variables to its agents in hash order.
"""
_POLL_S = 0.05
_GROUP_GRACE_S = 3.0
_ORPHANS_GRACE_S = 0.5
"""A resource tracker whose process was killed unlinks its shared memory within 0.2 s."""
_TRACKER = b"multiprocessing.resource_tracker"
_PR_SET_PDEATHSIG = 1
"""prctl(2)."""


def raise_file_limit(wanted: int = OPEN_FILES) -> int:
    """Raise the limit of open files of this process and its children to `wanted`, as far as the hard limit allows.

    Login shells start with 1,024.

    Returns:
        The limit now.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    if soft < wanted:
        new = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (new, hard))
            soft = new
    return soft


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A pid and its start time (clock ticks since boot), so that a reused pid is not mistaken for the process."""

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> Self | None:
        """The identity of a living process; None if there is none. A zombie is not alive."""
        try:
            # After the command's closing bracket: state is field 0, the start time field 19 (proc(5), 3 and 22).
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (OSError, UnicodeDecodeError):
            return None
        return None if fields[0] in "ZX" else cls(pid, int(fields[19]))

    def is_alive(self) -> bool:
        """Whether this process still runs."""
        return ProcessId.of(self.pid) == self


@dataclass(frozen=True)
class Child:
    """A child process that leads a session of its own, so that Ctrl-C in a terminal does not reach it.

    The kernel sends it SIGTERM when this process dies.
    """

    popen: "subprocess.Popen[bytes]"
    identity: ProcessId

    @classmethod
    def start(
        cls,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        output: IO[bytes],
        stdin: int = subprocess.DEVNULL,
        pass_fds: Sequence[int] = (),
    ) -> Self:
        """Start `command`; stdout and stderr go to `output`, `stdin` and `pass_fds` as for subprocess.Popen."""
        popen = subprocess.Popen(
            _die_with_parent(command),
            env=dict(environment),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            stdin=stdin,
            pass_fds=pass_fds,
        )
        return cls(popen, ProcessId.of(popen.pid) or ProcessId(popen.pid, 0))

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the child itself, if it still runs."""
        if self.popen.poll() is None:
            self.popen.send_signal(number)

    def wait_or_kill(self, grace_s: float, is_forced: Callable[[], bool] = lambda: False) -> bool:
        """Wait for the child's process group to end; kill what is left after `grace_s` seconds.

        Args:
            is_forced: whether to end the grace period early.

        Returns:
            Whether the child exited by itself.
        """
        wait_until(lambda: self.popen.poll() is not None or is_forced(), grace_s)
        exited = self.popen.poll() is not None
        if exited:
            if self.popen.returncode == -signal.SIGKILL:  # it could not end its own children
                _kill_orphans(self.popen.pid)
            # Its resource tracker now unlinks shared memory, then exits.
            wait_until(lambda: not group_exists(self.popen.pid), _GROUP_GRACE_S)
        kill_group(self.popen.pid)
        self.popen.wait()
        return exited


def _die_with_parent(command: Sequence[str]) -> list[str]:
    """The command under util-linux's setpriv: a preexec_fn would run between fork and exec, beside Ray's threads."""
    setpriv = shutil.which("setpriv")
    return [*([setpriv, "--pdeathsig", "TERM", "--"] if setpriv else []), *command]


def outlive_parent() -> None:
    """Revert `_die_with_parent` for this process, which learns of its parent's end from a pipe instead."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, 0)


def _list_pids() -> Iterator[int]:
    return (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())


def _read(pid: int, file: str) -> bytes:
    return Path(f"/proc/{pid}/{file}").read_bytes()


def group_exists(leader_pid: int) -> bool:
    """Whether any process of the group that `leader_pid` led is alive; zombies are not.

    In a container without an init, zombies of a group stay.
    """
    try:
        os.killpg(leader_pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return any(_list_group(leader_pid))


def _list_group(leader_pid: int) -> Iterator[int]:
    """Pids of the living processes of the group."""
    for pid in _list_pids():
        with contextlib.suppress(OSError):  # gone meanwhile
            if os.getpgid(pid) == leader_pid and ProcessId.of(pid) is not None:
                yield pid


def list_group_names(leader_pid: int) -> set[str]:
    """Program names (15 characters at most) of the living processes of the group that `leader_pid` led."""
    found = set()
    for pid in _list_group(leader_pid):
        with contextlib.suppress(OSError):  # gone meanwhile
            found.add(_read(pid, "comm").decode().strip())
    return found


def kill_group(leader_pid: int) -> None:
    """Kill what is left of the process group that `leader_pid` led, if anything."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader_pid, signal.SIGKILL)


def _kill_orphans(leader_pid: int) -> None:
    """Kill what a killed leader left in its group, except resource trackers: they clean up and exit by themselves."""
    for pid in _list_group(leader_pid):
        with contextlib.suppress(OSError):  # gone meanwhile
            if _TRACKER not in _read(pid, "cmdline"):
                os.kill(pid, signal.SIGKILL)


def kill_led(leaders: Collection[ProcessId], mark: str) -> None:
    """Kill the process groups that `leaders` led, those of dead leaders too.

    A dead leader's pid may be the id of an unrelated group by now. So only groups with a marked process (`list_marked`)
    are killed: the kernel does not reuse an id while its group exists. They have half a second to end by themselves.
    """
    for leader in leaders:
        if leader.is_alive():
            kill_group(leader.pid)
    pids = {leader.pid for leader in leaders}
    wait_until(lambda: not pids & _list_marked_groups(mark), _ORPHANS_GRACE_S)
    for pid in pids & _list_marked_groups(mark):
        kill_group(pid)


def _list_marked_groups(mark: str) -> set[int]:
    found = set()
    for pid in list_marked(MARK_VARIABLE, mark):
        with contextlib.suppress(ProcessLookupError):  # gone meanwhile
            found.add(os.getpgid(pid))
    return found


def list_marked(variable: str, value: str, titles: tuple[str, ...] = ()) -> list[int]:
    """Pids of the other processes of this machine whose environment has `variable` set to `value`.

    Args:
        value: one that ends in "*" matches every value with that beginning.
        titles: what their command line must begin with, one of them; () takes any.
    """
    wanted = f"{variable}={value}".encode()
    begins = wanted.endswith(b"*")
    found = []
    for pid in _list_pids():
        try:
            entries, command = _read(pid, "environ").split(b"\0"), _read(pid, "cmdline")
        except OSError:  # gone meanwhile, or another user's
            continue
        is_marked = any(entry.startswith(wanted[:-1]) for entry in entries) if begins else wanted in entries
        is_titled = not titles or command.startswith(tuple(title.encode() for title in titles))
        if is_marked and is_titled and pid != os.getpid() and ProcessId.of(pid) is not None:
            found.append(pid)
    return sorted(found)


def kill_marked(mark: str, grace_s: float = 0.0, titles: tuple[str, ...] = ()) -> list[int]:
    """Kill what `list_marked` finds by that mark after `grace_s` seconds; returns the pids that had to be killed."""
    wait_until(lambda: not list_marked(MARK_VARIABLE, mark, titles), grace_s)
    left = list_marked(MARK_VARIABLE, mark, titles)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not list_marked(MARK_VARIABLE, mark, titles), _GROUP_GRACE_S)
    return left


def wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Poll `condition()` until it holds or `timeout_s` seconds have passed; returns whether it held."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_S)
    return True


def describe_status(status: int) -> str:
    """How a process ended: its signal, where `status` is negative, or its exit status."""
    return f"by signal {-status}" if status < 0 else f"with exit status {status}"
