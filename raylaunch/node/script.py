"""Run a Python program, handed over as text, on a node."""

import subprocess
import sys


def run_script(source: str, question: str, timeout_s: float) -> tuple[str, str]:
    """Run `source` in a new process of this node's Python, `question` on its stdin.

    Returns:
        Its stdout; and where it failed, the end of its stderr, else "".
    """
    try:
        done = subprocess.run(
            [sys.executable, "-c", source],
            input=question,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "", f"no answer within {timeout_s:.0f} s"
    return done.stdout, done.stderr[-2000:] if done.returncode else ""
