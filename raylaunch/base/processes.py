"""Child processes that are ended whole, and process identities that survive pid reuse (Linux)."""

import contextlib
import ctypes
import os
import resource
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import IO, Self

MARK_VARIABLE = "RAYLAUNCH_MARK"
"""In the environment of every process of one start of an engine, on every node; a private Ray has one of its own."""


RANK_TITLE = "Worker"
"""In the title of a process that carries a rank ("ray::RayWorkerProc.run"), and not in that of Ray's idle ones."""


_PATIENCE_STEP_S = 0.05


_GROUP_PATIENCE_S = 3.0


_ORPHANS_PATIENCE_S = 0.5
"""A resource tracker whose process was killed unlinks its shared memory within two tenths."""


OPEN_FILES = 65536


_TRACKER = b"multiprocessing.resource_tracker"


_PR_SET_PDEATHSIG = 1
"""prctl(2)."""


KEEP_VISIBLE: Mapping[str, str] = MappingProxyType({"SPT_NOENV": "1"})
"""Environment of whatever is to be found by `list_marked` though it gives itself a title.

Else the title is written over its environment up to the first variable that it has set anew, and whether a mark lies
behind that one is chance: the raylet hands its agents an order that a hash made (setproctitle 1.3.8, Ray 2.60).
"""


def raise_file_limit(wanted: int = OPEN_FILES) -> int:
    """Let this process, and what it starts, open so many files as far as the system allows without being asked.

    Login shells start with 1,024.

    Returns:
        How many it may open now.
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
    """A pid and when it started (clock ticks since boot), so that a reused pid is not mistaken for the process."""

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> Self | None:
        """The identity of a living process; None if there is none (a zombie counts as gone)."""
        try:
            # After the command's closing bracket: state is field 0, the start time field 19 (proc(5), 3 and 22).
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (OSError, UnicodeDecodeError):
            return None
        return None if fields[0] in "ZX" else cls(pid, int(fields[19]))

    def is_alive(self) -> bool:
        """Whether this very process still runs."""
        return ProcessId.of(self.pid) == self


@dataclass(frozen=True)
class Child:
    """A child process that leads a session of its own, so that Ctrl-C in a terminal does not reach it.

    It receives SIGTERM from the kernel should this process die.
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

    def wait_or_kill(self, patience_s: float, hurried: Callable[[], bool] = lambda: False) -> bool:
        """Wait for the child's whole group to end; kill what is left after `patience_s` seconds.

        Args:
            hurried: whether patience is over before that.

        Returns:
            Whether it went by itself.
        """
        wait_until(lambda: self.popen.poll() is not None or hurried(), patience_s)
        gone = self.popen.poll() is not None
        if gone:
            if self.popen.returncode == -signal.SIGKILL:  # it could end nobody
                _kill_orphans(self.popen.pid)
            # Its resource tracker now unlinks shared memory, and goes.
            wait_until(lambda: not group_exists(self.popen.pid), _GROUP_PATIENCE_S)
        kill_group(self.popen.pid)
        self.popen.wait()
        return gone


def _die_with_parent(command: Sequence[str]) -> list[str]:
    """The command under util-linux's setpriv: a preexec_fn would run between fork and exec, beside Ray's threads."""
    setpriv = shutil.which("setpriv")
    return [*([setpriv, "--pdeathsig", "TERM", "--"] if setpriv else []), *command]


def outlive_parent() -> None:
    """Take `_die_with_parent` back for this process: from here on it hears of its parent's end by a pipe."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, 0)


def group_exists(leader_pid: int) -> bool:
    """Whether any process of the group that `leader_pid` led is left; one that waits to be reaped is not.

    In a container without an init nobody reaps.
    """
    try:
        os.killpg(leader_pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return any(_list_group(leader_pid))


def _list_group(leader_pid: int) -> Iterator[Path]:
    """The folders in /proc of those that live in the group."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # gone meanwhile
                if os.getpgid(int(entry.name)) == leader_pid and ProcessId.of(int(entry.name)) is not None:
                    yield entry


def list_group_names(leader_pid: int) -> set[str]:
    """Names (15 characters at most) of the programs that live in the group that `leader_pid` led."""
    found = set()
    for entry in _list_group(leader_pid):
        with contextlib.suppress(OSError):  # gone meanwhile
            found.add((entry / "comm").read_text().strip())
    return found


def kill_group(leader_pid: int) -> None:
    """Kill what is left of the process group that `leader_pid` led; a group that is gone is fine."""
    try:
        os.killpg(leader_pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def _kill_orphans(leader_pid: int) -> None:
    """Kill what a killed leader left in its group, but for resource trackers: they go by themselves, and tidy up."""
    for entry in _list_group(leader_pid):
        with contextlib.suppress(OSError):  # gone meanwhile
            if _TRACKER not in (entry / "cmdline").read_bytes():
                os.kill(int(entry.name), signal.SIGKILL)


def kill_led(leaders: Collection[ProcessId], variable: str, value: str) -> None:
    """Kill the process groups that `leaders` led, those of dead ones too.

    A dead leader's pid may be the number of somebody else's group by now, unless one in that group carries the mark
    (`list_marked`): a number is not given out again while a group has it. Those get half a second to go by themselves.
    """
    for leader in leaders:
        if leader.is_alive():
            kill_group(leader.pid)
    pids = {leader.pid for leader in leaders}
    wait_until(lambda: not pids & _list_marked_groups(variable, value), _ORPHANS_PATIENCE_S)
    for pid in pids & _list_marked_groups(variable, value):
        kill_group(pid)


def _list_marked_groups(variable: str, value: str) -> set[int]:
    found = set()
    for pid in list_marked(variable, value):
        with contextlib.suppress(ProcessLookupError):  # gone meanwhile
            found.add(os.getpgid(pid))
    return found


def list_marked(variable: str, value: str, title: str = "") -> list[int]:
    """Pids of this machine's processes whose environment has `variable` at `value` (this process is not among them).

    Args:
        value: one that ends in "*" stands for all that begin so.
        title: what their command line has to hold.
    """
    wanted = f"{variable}={value}".encode()
    begins = wanted.endswith(b"*")
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                environment = (entry / "environ").read_bytes()
                command = (entry / "cmdline").read_bytes()
            except OSError:  # gone meanwhile, or another user's
                continue
            entries = environment.split(b"\0")
            is_marked = any(entry.startswith(wanted[:-1]) for entry in entries) if begins else wanted in entries
            is_ours = is_marked and title.encode() in command
            if is_ours and ProcessId.of(int(entry.name)) is not None:
                found.append(int(entry.name))
    return sorted(found)


def kill_marked(variable: str, value: str, patience_s: float = 0.0, title: str = "") -> list[int]:
    """Kill what `list_marked` finds, once `patience_s` seconds have passed; the pids that did not go by themselves."""
    wait_until(lambda: not list_marked(variable, value, title), patience_s)
    left = list_marked(variable, value, title)
    for pid in left:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    wait_until(lambda: not list_marked(variable, value, title), _GROUP_PATIENCE_S)
    return left


def remove_folder(folder: Path) -> None:
    """Remove a folder of ours with all that is in it; one that is gone is fine."""
    shutil.rmtree(folder, ignore_errors=True)


def wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Poll `condition()` until it holds or `timeout_s` seconds have passed; whether it held."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(_PATIENCE_STEP_S)
    return True


class Endings:
    """Each runs in a thread of its own."""

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []

    def begin(self, end: Callable[[], object]) -> None:
        """Run `end`, without waiting for it."""
        thread = threading.Thread(target=end, name="ending")
        thread.start()
        self._threads = [*(one for one in self._threads if one.is_alive()), thread]

    def wait(self) -> None:
        """Wait until all have run."""
        for thread in self._threads:
            thread.join()
        self._threads.clear()
