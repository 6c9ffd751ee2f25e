"""Run a command in a foreground process group of its own: Ctrl-C reaches it alone, and make sees its exit status.

GNU make dies of the terminal's SIGINT itself (exit 130) even where the command took it as the request to stop that it
is. Usage: python foreground.py COMMAND [ARGUMENT...]
"""

import os
import signal
import subprocess
import sys

_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(command: list[str]) -> int:
    """Run `command` to its end; its exit status, or 128 plus the signal that ended it."""
    terminal = _own_terminal()
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # or taking the terminal back would stop us
    child = subprocess.Popen(command, process_group=0)
    for number in _PASSED_ON:
        signal.signal(number, lambda received, _frame: _signal_group(child.pid, received))
    while True:
        _give_terminal(terminal, child.pid)
        _, status = os.waitpid(child.pid, os.WUNTRACED)
        _give_terminal(terminal, os.getpgrp())
        if not os.WIFSTOPPED(status):
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
        os.killpg(os.getpgrp(), signal.SIGSTOP)  # Ctrl-Z: stop with make, and go on with it
        _signal_group(child.pid, signal.SIGCONT)


def _own_terminal() -> int | None:
    """The terminal we are in the foreground of; None without one."""
    try:
        return 0 if os.tcgetpgrp(0) == os.getpgrp() else None
    except OSError:
        return None


def _give_terminal(terminal: int | None, group: int) -> None:
    if terminal is not None:
        os.tcsetpgrp(terminal, group)


def _signal_group(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
