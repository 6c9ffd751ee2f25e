"""The first command of the README, as a newcomer runs it. Needs the CPU engine and about 4 GB of memory."""

import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from raylaunch.base.processes import ProcessId, wait_until
from raylaunch.serve.service_record import Service, list_services

from . import harness

pytestmark = pytest.mark.engine


def put_model(home: Path, model: Path) -> None:
    """Let the demo find the model where it would have fetched it to."""
    folder = home / "models" / "HuggingFaceTB--SmolLM2-135M-Instruct"
    folder.parent.mkdir(parents=True)
    folder.symlink_to(model)


@contextlib.contextmanager
def make_serve(home: Path, port: int) -> Iterator[tuple[int, int]]:
    """`make serve` on a terminal of its own: its pid, and the terminal's other end."""
    environ = os.environ | {harness.MARK: str(home), "TERM": "xterm", "COLUMNS": "200"}
    root = str(Path(__file__).parents[2])
    pid, controller = pty.fork()
    if pid == 0:
        os.execvpe("make", ["make", "-C", root, "serve", f"ARGS=--set server.port={port}"], environ)
    try:
        yield pid, controller
    finally:
        os.close(controller)
        for left_over in harness.list_processes(home):
            os.kill(left_over, signal.SIGKILL)


@pytest.mark.timeout(600)
def test_make_serve_on_a_terminal(tmp_path: Path, smollm2_folder: Path) -> None:
    """The README's first commands: Paris by the curl line as printed, ask, status, a second serve; Ctrl-C ends it."""
    home, port = tmp_path / "home", harness.find_free_port()
    put_model(home, smollm2_folder)
    with make_serve(home, port) as (pid, controller):
        printed = read_until(controller, b"ends it", harness.READY_DEADLINE_S).decode(errors="replace")
        assert "ready after" in printed
        assert "KV cache " in printed
        (curl,) = re.findall(r"curl -s http://127\.0\.0\.1:[^\r\n]*", printed)
        answer = json.loads(subprocess.run(curl, shell=True, capture_output=True, check=True).stdout)
        assert "Paris" in answer["choices"][0]["text"]
        check_verbs(home, port)
        check_anthropic(f"http://127.0.0.1:{port}")
        os.write(controller, b"\x03")
        printed += read_until(controller, b"port are gone", harness.END_DEADLINE_S).decode(errors="replace")
        assert psutil.Process(pid).wait(harness.END_DEADLINE_S) == 0, printed
        assert wait_until(lambda: not harness.list_processes(home), harness.END_DEADLINE_S)
    assert harness.run("status", home=home).returncode == 1
    stopped = harness.run("stop", home=home)
    assert stopped.returncode == 0
    assert "nothing to stop" in stopped.stderr


def check_verbs(home: Path, port: int) -> None:
    """Ask with a question and with one from a pipe, status, and serve: the same launch again, and another one."""
    asked = harness.run("ask", "What is the capital of France?", "--max-tokens", "32", home=home)
    assert asked.returncode == 0, asked.stderr
    assert "Paris" in asked.stdout
    piped = subprocess.run(
        [harness.RAYLAUNCH, "ask", "--max-tokens", "8"],
        input="What is the capital of France?",
        env=os.environ | {harness.MARK: str(home)},
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert piped.stdout.strip()

    status = json.loads(harness.run("status", "--json", home=home).stdout)
    assert status["ready"] is True
    assert status["models"][0] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert status["requests_running"] == 0
    assert status["nodes"][0]["alive"] is True

    again = harness.run("serve", "--set", f"server.port={port}", home=home)
    assert again.returncode == 0
    assert "served already" in again.stderr

    other = harness.run("serve", "--set", f"server.port={port}", "--set", "engine.max_model_len=512", home=home)
    assert other.returncode == 1
    assert str(port) in other.stderr


def check_anthropic(url: str) -> None:
    """The anthropic client's answers: the count of a prompt's tokens, a complete answer, and a stream."""
    import anthropic

    client = anthropic.Anthropic(base_url=url, auth_token="none")
    question = {"model": "HuggingFaceTB/SmolLM2-135M-Instruct"} | {
        "messages": [{"role": "user", "content": "What is the capital of France?"}]
    }
    assert client.messages.count_tokens(**question).input_tokens > 5
    said = client.messages.create(max_tokens=32, extra_body={"temperature": 0}, **question)
    assert (said.content[0].type, "Paris" in said.content[0].text) == ("text", True)
    with client.messages.stream(max_tokens=32, extra_body={"temperature": 0}, **question) as stream:
        assert "Paris" in "".join(stream.text_stream)
        assert stream.get_final_message().usage.output_tokens > 1


def read_until(descriptor: int, wanted: bytes, deadline_s: float) -> bytes:
    """What a terminal shows until `wanted` appears."""
    until = time.monotonic() + deadline_s
    seen = b""
    while wanted not in seen:
        left_s = until - time.monotonic()
        if left_s <= 0 or not select.select([descriptor], [], [], left_s)[0]:
            raise AssertionError(f"no {wanted!r} within {deadline_s} s:\n{seen.decode(errors='replace')}")
        seen += os.read(descriptor, 65536)
    return seen


@pytest.mark.timeout(300)
def test_one_sigterm_ends_a_start_up(tmp_path: Path, smollm2_folder: Path) -> None:
    """vLLM loses the first SIGTERM of its start-up; raylaunch must not."""
    home = tmp_path / "home"
    put_model(home, smollm2_folder)
    with harness.serving(home) as served:
        served.wait_for("starting 1 vLLM worker")
        stopped = harness.run("stop", home=home)
        assert stopped.returncode == 0, stopped.stderr
        assert served.process.wait(timeout=harness.END_DEADLINE_S) == 0
        assert served.wait_gone() == {}


@pytest.mark.timeout(300)
def test_killed_supervisor_leaves_no_orphans_for_long(tmp_path: Path, smollm2_folder: Path) -> None:
    """After kill -9 of the supervisor, `stop` finds what is left of its service and ends it."""
    home = tmp_path / "home"
    put_model(home, smollm2_folder)
    with harness.serving(home) as served:
        served.wait_for("starting 1 vLLM worker")
        served.process.kill()
        served.process.wait()
        stopped = harness.run("stop", home=home)
        assert stopped.returncode == 0, stopped.stderr
        assert "supervisor was dead" in stopped.stderr
        assert served.wait_gone() == {}


@pytest.mark.timeout(300)
def test_failed_start_names_the_first_real_error(tmp_path: Path, smollm2_folder: Path) -> None:
    """A KV cache too small for the context: the last lines name it, with the log's path, and exit 1."""
    home = tmp_path / "home"
    put_model(home, smollm2_folder)
    with harness.serving(home, "--set", "engine.kv_cache_memory_bytes=16777216") as served:
        assert served.process.wait(timeout=harness.READY_DEADLINE_S) == 1
        text = served.text()
        error = next(line for line in text.splitlines() if line.startswith("error:"))
        assert "KV cache" in error
        assert "Engine core initialization failed" not in error
        assert "what to do:" in text
        log = Path(text.rsplit("full log: ", 1)[1].strip())
        assert log.is_file()
        assert served.wait_gone() == {}


def test_record_survives_a_round_trip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record is read back as it was written, by its owner only."""
    monkeypatch.setenv(harness.MARK, str(tmp_path))
    identity = ProcessId.of(os.getpid())
    assert identity is not None
    service = Service(8080, "127.0.0.1", ("a/b",), "f", identity, 1.0, group_leaders=(identity,)).save()
    assert list_services() == [service]
    assert (service.folder / "service.json").stat().st_mode & 0o077 == 0
