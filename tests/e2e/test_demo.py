"""The first command of the README, as a newcomer runs it. Needs the CPU engine and about 4 GB of memory."""

import http.client
import json
import os
import pty
import select
import signal
import subprocess
import time
from pathlib import Path

import anthropic
import pytest

from raylaunch.engine.key_guard import OPEN_PATHS
from raylaunch.serve.service_record import Service

from . import harness

pytestmark = pytest.mark.engine


def put_model(home: Path, model: Path) -> None:
    """Let the demo find the model where it would have fetched it to."""
    folder = home / "models" / "HuggingFaceTB--SmolLM2-135M-Instruct"
    folder.parent.mkdir(parents=True)
    folder.symlink_to(model)


@pytest.mark.alone
@pytest.mark.timeout(600)
def test_demo_serves_a_real_model_and_leaves_nothing(tmp_path: Path, smollm2_folder: Path) -> None:
    """Ready, Paris by the curl line as printed, ask, status, a second serve, Ctrl-C: exit 0 and nothing left."""
    home = tmp_path / "home"
    put_model(home, smollm2_folder)
    before, folders = harness.list_shared_memory(), set(Path("/tmp").glob("raylaunch-*"))
    with harness.serving(home) as served:
        port = served.url.rpartition(":")[2]
        served.wait_ready()
        text = served.text()
        assert "ready after" in text
        assert "KV cache " in text

        curl = next(line for line in text.splitlines() if line.startswith("  curl "))
        answer = json.loads(subprocess.run(curl, shell=True, capture_output=True, check=True).stdout)
        assert "Paris" in answer["choices"][0]["text"]

        asked = harness.run("ask", "What is the capital of France?", "--max-tokens", "32", home=home)
        assert asked.returncode == 0, asked.stderr
        assert "Paris" in asked.stdout
        check_anthropic(served.url)
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
        assert port in other.stderr

        assert served.end() == 0
        assert served.wait_gone() == {}
    assert harness.list_shared_memory() <= before
    assert set(Path("/tmp").glob("raylaunch-*")) <= folders, "the private Ray's folder stayed"
    assert harness.run("status", home=home).returncode == 1
    stopped = harness.run("stop", home=home)
    assert stopped.returncode == 0
    assert "nothing to stop" in stopped.stderr


def check_anthropic(url: str) -> None:
    """The anthropic client's answers: the count of a prompt's tokens, a complete answer, and a stream."""
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


@pytest.mark.timeout(600)
def test_make_serve_on_a_terminal(tmp_path: Path, smollm2_folder: Path) -> None:
    """The README's first command, on a terminal of its own: ready, and Ctrl-C ends it with exit 0."""
    home = tmp_path / "home"
    put_model(home, smollm2_folder)
    environ = os.environ | {harness.MARK: str(home), "TERM": "xterm", "COLUMNS": "200"}
    command = [
        "make",
        "-C",
        str(Path(__file__).parents[2]),
        "serve",
        f"ARGS=--set server.port={harness.find_free_port()}",
    ]
    pid, controller = pty.fork()
    if pid == 0:
        os.execvpe(command[0], command, environ)
    try:
        printed = read_until(controller, b"ends it", harness.READY_DEADLINE_S)
        assert b"curl -s http://127.0.0.1:" in printed
        os.write(controller, b"\x03")
        printed += read_until(controller, b"port are gone", harness.END_DEADLINE_S)
        until = time.monotonic() + harness.END_DEADLINE_S
        ended = (0, 0)
        while ended[0] == 0 and time.monotonic() < until:
            ended = os.waitpid(pid, os.WNOHANG)
            time.sleep(0.1)
        assert ended == (pid, 0), printed.decode(errors="replace")
        while (left := harness.list_processes(home)) and time.monotonic() < until:
            time.sleep(0.2)
        assert left == {}
    finally:
        os.close(controller)
        for left_over in harness.list_processes(home):
            os.kill(left_over, signal.SIGKILL)


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


def ask_all_routes(url: str) -> dict[str, int]:
    """Verb and path of every route of the app -> the status that a client without a key gets."""
    server = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
    server.request("GET", "/openapi.json")
    answers = {}
    for path, verbs in json.load(server.getresponse())["paths"].items():
        for verb in map(str.upper, verbs):
            server.request(verb, path, "{}", {"Content-Type": "application/json"})
            with server.getresponse() as response:
                response.read()
                answers[f"{verb} {path}"] = response.status
    return answers


@pytest.mark.timeout(300)
def test_api_key_guards_the_server_and_is_written_nowhere(tmp_path: Path, smollm2_folder: Path) -> None:
    """No answer without the key, an answer with it, and the key in no log, record, argument list or printed line."""
    home = tmp_path / "home"
    put_model(home, smollm2_folder)
    key = "sk-5a1f-only-here"
    with harness.serving(home, RAYLAUNCH_SERVER__API_KEY=key) as served:
        served.wait_ready()
        refused = harness.run("ask", "Hello", home=home)
        assert refused.returncode == 1
        assert "API key" in refused.stderr
        answers = ask_all_routes(served.url)
        assert answers["POST /invocations"] == answers["POST /tokenize"] == 401
        assert answers["GET /health"] == answers["GET /version"] == 200
        assert {name.split()[1] for name, status in answers.items() if status != 401} <= OPEN_PATHS
        wrong = harness.run("ask", "Hello", home=home, OPENAI_API_KEY="sk-wrong")
        assert wrong.returncode == 1
        assert "sk-wrong" not in wrong.stderr
        asked = harness.run("ask", "Hello", "--max-tokens", "4", home=home, RAYLAUNCH_SERVER__API_KEY=key)
        assert asked.returncode == 0, asked.stderr
        assert not [line for line in harness.list_processes(home).values() if key in line]
        printed = served.text() + harness.run("status", "--json", home=home).stdout
        assert key not in printed
        assert served.end() == 0
        assert served.wait_gone() == {}
    kept = [path for path in home.rglob("*") if path.is_file() and not path.is_symlink() and "models" not in path.parts]
    assert any(path.name == "engine.log" for path in kept)
    assert [path for path in kept if key in path.read_text(errors="replace")] == []


def test_record_survives_a_round_trip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record is read back as it was written, by its owner only."""
    from raylaunch.base.processes import ProcessId
    from raylaunch.serve.service_record import list_services

    monkeypatch.setenv(harness.MARK, str(tmp_path))
    identity = ProcessId.of(os.getpid())
    assert identity is not None
    service = Service(8080, "127.0.0.1", ("a/b",), "f", identity, 1.0, group_leaders=(identity,)).save()
    assert list_services() == [service]
    assert (service.folder / "service.json").stat().st_mode & 0o077 == 0
