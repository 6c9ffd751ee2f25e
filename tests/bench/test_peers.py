"""How benchmarks/ measures other load clients from outside: with all they start, of which nothing outlives them."""

import sys
import time
from pathlib import Path

from benchmarks import peers

SPIN_FOR_HALF_A_SECOND = "import time\nwhile time.process_time() < 0.5: pass"


def is_running(pid: int) -> bool:
    """Whether a process lives; one that ended and waits for its parent does not."""
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_the_cpu_of_children_counts(tmp_path: Path) -> None:
    """A client that works in processes of its own is charged for them."""
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SPIN_FOR_HALF_A_SECOND!r}])"
    cpu_s, status, _ = peers.run_measured([sys.executable, "-c", child], tmp_path)
    assert status == 0
    assert cpu_s >= 0.5


def test_what_a_client_leaves_behind_is_ended(tmp_path: Path) -> None:
    """A service that outlives its client would burn the cores of the next one."""
    _, status, text = peers.run_measured(["sh", "-c", "sleep 300 & echo $!"], tmp_path)
    assert status == 0
    until = time.monotonic() + 10
    while is_running(int(text)):
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_client_that_hangs_is_ended_and_says_its_last_words(tmp_path: Path) -> None:
    """Its row tells that it failed, instead of holding up the run."""
    _, status, text = peers.run_measured(["sh", "-c", "echo '│ waiting │'; sleep 300"], tmp_path, deadline_s=1.0)
    assert peers.tell_failure(status, text) == {"failed": "exit status -9: waiting"}


def test_a_client_that_gives_no_figures_fails_in_its_row(tmp_path: Path) -> None:
    """`false` stands for a client whose version no longer takes these options."""
    for run in (peers.run_aiperf, peers.run_guidellm):
        load = peers.Load(at_once=1, requests=1, tokens_in=20, tokens_out=16)
        (tmp_path / "tokenizer").mkdir(exist_ok=True)
        row = run("false", "http://127.0.0.1:9", "truth", tmp_path / "tokenizer", tmp_path, load)
        assert row == {"failed": "exit status 1: "}
