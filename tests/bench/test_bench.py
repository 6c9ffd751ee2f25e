"""`raylaunch bench` against real servers that behave and misbehave: what it tells, and its exit status."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from raylaunch.bench import result as result_file
from raylaunch.bench.connection import RequestRow
from tests.bench import odd_server
from tests.e2e import harness
from tests.private_ca import PrivateCa

ROOT = Path(__file__).parents[2]
DEADLINE_S = 90.0


def start(*arguments: str, **environ: str) -> "subprocess.Popen[str]":
    command = [harness.RAYLAUNCH, "bench", "--no-sample", "--warmup", "0", *arguments]
    return subprocess.Popen(
        command, env=os.environ | environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )  # fmt: skip


def run(tmp_path: Path, url: str, *arguments: str, status: int = 0, **environ: str) -> dict[str, Any]:
    """Run a load to its end and return what it wrote, as read from the file and from stdout.

    With --force where success is expected: on a busy machine the client may rightly say that it was slow.
    """
    path = tmp_path / "result.json"
    forced = () if status else ("--force",)
    process = start("--url", url, "--json", "-o", str(path), *forced, *arguments, **environ)
    out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == status, out + err
    written = json.loads(path.read_text())
    assert json.loads(out) == written
    return written


def read_rows(tmp_path: Path) -> list[RequestRow]:
    """The rows of all levels."""
    return [*chain.from_iterable(result_file.read_rows(tmp_path / "result.json").values())]


def list_reasons(result: dict[str, Any]) -> list[str]:
    """Why it is INVALID, apart from the client's own slowness on a busy machine."""
    return [one for one in result["invalid_because"] if not re.match(r"shard \d|requests left late", one)]


@pytest.fixture(scope="module")
def truth() -> Iterator[str]:
    """The server of benchmarks/: first token after 30 ms, then one each 5 ms, 16 in all."""
    port = harness.find_free_port()
    command = [sys.executable, "-m", "benchmarks.truth_server", "--port", str(port)]
    process = subprocess.Popen([*command, "--first-ms", "30", "--each-ms", "5", "--tokens", "16"], cwd=ROOT)
    try:
        until = time.monotonic() + DEADLINE_S
        while harness_answers(port) is False:
            assert time.monotonic() < until
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def harness_answers(port: int) -> bool:
    import socket

    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def test_known_truth_is_told(tmp_path: Path, truth: str) -> None:
    """Counts exactly; times no earlier than the truth; two levels, each with its rows."""
    result = run(tmp_path, truth, "-c", "2,20", "-n", "60", "--slo", "ttft=10s,tpot=1ms")
    assert (list_reasons(result), result["ended"], result["format_version"]) == ([], "whole", 1)
    assert [level["requests_ok"] for level in result["levels"]] == [60, 60]
    assert result["output_tokens"] == 60 * 16
    assert result["tokens_counted_by"] == "usage"
    assert result["ttft_ms"]["min"] >= 29.9
    assert result["itl_ms"]["p50"] > 4.5
    assert result["goodput"]["requests_ok"] == 0
    for key in ("ttft_ms", "itl_ms", "tpot_ms", "e2e_ms"):
        assert {"mean", "p50", "p90", "p95", "p99"} <= set(result[key])
    assert {"cpu_s", "max_loop_lag_ms"} <= set(result["client"])
    rows = result_file.read_rows(tmp_path / "result.json")
    assert [sorted(row.number for row in rows[level]) for level in (0, 1)] == [list(range(60))] * 2
    assert all(len(row.arrivals) == 16 for row in read_rows(tmp_path))


def test_shards_share_the_load(tmp_path: Path, truth: str) -> None:
    result = run(tmp_path, truth, "-c", "7", "-n", "50", "--shards", "2")
    assert result["requests_ok"] == 50
    assert len(result["client"]["shards"]) == 2
    shards = [row.shard for row in read_rows(tmp_path)]
    assert (shards.count(0), shards.count(1)) == (25, 25)


def test_open_loop_sends_when_it_is_time(tmp_path: Path, truth: str) -> None:
    """As many as the rate gives, the same moments for the same seed, latency from the moment it was meant for."""
    result = run(tmp_path, truth, "--rate", "40", "-n", "40", "--seed", "3")
    rows = read_rows(tmp_path)
    assert len(rows) == 40
    assert all(row.sent_s >= row.due_s for row in rows)
    assert result["client"]["late_ms"]["p50"] is not None
    again = run(tmp_path, truth, "--rate", "40", "-n", "40", "--seed", "3")
    due = sorted(round(row.due_s, 4) for row in rows)
    assert due == sorted(round(row.due_s, 4) for row in read_rows(tmp_path))
    assert again["levels"][0]["load"]["kind"] == "open"


def test_open_loop_does_not_wait_for_the_server(tmp_path: Path) -> None:
    """A server that stands still for half a second: what was due meanwhile left meanwhile, and its wait is counted."""
    moment = threading.Event()

    def behave(number: int) -> str:
        if number == 20:
            moment.set()
            time.sleep(0.5)
            moment.clear()
        elif moment.is_set():
            while moment.is_set():
                time.sleep(0.005)
        return ""

    with odd_server.serve(behave) as server:
        run(tmp_path, server.url, "--rate", "80", "-n", "100")
    rows = sorted(read_rows(tmp_path), key=lambda row: row.due_s)
    first = [row.arrivals[0] - row.due_s for row in rows]
    held = [wait for wait in first if wait > 0.1]
    assert len(held) >= 15  # 40 were due in half a second; a client that waited would show one
    assert max(held) >= 0.45


def test_levels_go_on_with_the_questions(tmp_path: Path) -> None:
    """A sweep meets no prompt twice before all were asked: a prefix cache would answer the second level."""
    with odd_server.serve() as server:
        run(tmp_path, server.url, "-c", "1,2", "-n", "10")
        asked = [body["messages"][0]["content"] for body in server.seen]
    assert len(asked) == len(set(asked)) == 20


def test_files_go_into_a_folder_of_their_own(tmp_path: Path, truth: str) -> None:
    """Without --output: ./raylaunch-bench/, made when needed; the last line names it."""
    command = [harness.RAYLAUNCH, "bench", "--no-sample", "--warmup", "0", "--force", "--url", truth, "-n", "4"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["raylaunch-bench"]
    [result] = (tmp_path / "raylaunch-bench").glob("*.json")
    assert {path.name.removeprefix(result.stem) for path in result.parent.iterdir()} == {
        ".json", ".rows.jsonl.gz", ".html"
    }  # fmt: skip
    assert f"raylaunch-bench/{result.name}" in done.stderr.strip().splitlines()[-1]


def test_duration_ends_it(tmp_path: Path, truth: str) -> None:
    result = run(tmp_path, truth, "-c", "4", "--duration", "1s")
    assert result["ended"] == "whole"
    assert result["requests_ok"] >= 8
    assert all(row.due_s < 1.0 for row in read_rows(tmp_path))


def test_whole_answers_without_streaming(tmp_path: Path) -> None:
    with odd_server.serve() as server:
        result = run(tmp_path, server.url, "--no-stream", "-n", "20", "-c", "4")
    assert result["requests_ok"] == 20
    assert result["ttft_ms"]["p50"] is None
    assert result["e2e_ms"]["count"] == 20
    assert result["output_tokens"] == 20 * odd_server.TOKENS


def test_key_questions_and_options_reach_the_server(tmp_path: Path) -> None:
    questions = tmp_path / "q.jsonl"
    questions.write_text('{"question": "a?"}\n{"question": "b?"}\n')
    with odd_server.serve() as server:
        run(
            tmp_path, server.url, "-n", "4", "-c", "1", "--questions", str(questions), "--max-tokens", "5",
            RAYLAUNCH_SERVER__API_KEY="sk-secret",
        )  # fmt: skip
        assert [body["messages"][0]["content"] for body in server.seen] == ["a?", "b?", "a?", "b?"]
        assert set(server.keys) == {"Bearer sk-secret"}
    assert "sk-secret" not in (tmp_path / "result.json").read_text()


def test_questions_with_lengths_of_their_own(tmp_path: Path) -> None:
    """Requested exactly; the result and its report state those lengths."""
    questions = tmp_path / "recorded.jsonl"
    questions.write_text('{"prompt": "a?", "output_tokens": 3}\n{"prompt": "b?", "output_tokens": 40}\n')
    with odd_server.serve() as server:
        result = run(tmp_path, server.url, "-n", "2", "-c", "1", "--questions", str(questions))
        assert [(body["max_tokens"], body["ignore_eos"]) for body in server.seen] == [(3, True), (40, True)]
    assert result["asked"]["own_output_tokens"] == [3, 40]
    assert "3 to 40 tokens, as in its file" in (tmp_path / "result.html").read_text()


def test_synthetic_prompts_differ(tmp_path: Path) -> None:
    with odd_server.serve() as server:
        run(tmp_path, server.url, "-n", "12", "-c", "4", "--input-tokens", "30", "--output-tokens", "6")
        assert len({body["prompt"] for body in server.seen}) == 12
        assert all(body["ignore_eos"] and body["max_tokens"] == 6 for body in server.seen)


def test_synthetic_prompts_are_text_of_exact_length(tmp_path: Path, tiny_llama: Path) -> None:
    """The server tells its tokens: it gets text, and counts as many as were asked for."""
    tokenizer = Tokenizer.from_file(str(tiny_llama / "tokenizer.json"))
    with odd_server.serve(tokenizer=tokenizer) as server:
        result = run(tmp_path, server.url, "-n", "12", "-c", "4", "--input-tokens", "30")
        prompts = [body["prompt"] for body in server.seen]
    assert [len(tokenizer.encode(prompt).ids) for prompt in prompts] == [30] * 12
    assert (result["tokens_counted_by"], result["input_tokens"]) == ("usage", 12 * 30)
    assert (result["asked"]["prompts"], result["asked"]["distinct_prompts"]) == ("synthetic text, 30 tokens", 12)


@pytest.mark.parametrize("api", ["completions", "chat"])
def test_closing_server_and_missing_usage(tmp_path: Path, api: str) -> None:
    """A connection per answer; tokens counted by events with output, and the result says so."""
    with odd_server.serve(lambda number: "close" if number % 2 else "no usage") as server:
        result = run(tmp_path, server.url, "-n", "20", "-c", "4", "--api", api)
    assert result["requests_ok"] == 20
    assert result["tokens_counted_by"] == "events"
    assert result["output_tokens"] == 20 * odd_server.TOKENS


def test_few_errors_are_told_by_kind(tmp_path: Path) -> None:
    """One request in fifty fails, in four ways: valid, and each counted."""
    odd = {10: "503", 60: "break", 110: "error event", 160: "typed error"}
    with odd_server.serve(lambda number: odd.get(number, "")) as server:
        result = run(tmp_path, server.url, "-n", "200", "-c", "8")
    assert list_reasons(result) == []
    assert (result["requests_ok"], result["requests_failed"]) == (196, 4)
    assert {kind: entry["count"] for kind, entry in result["errors"].items()} == {
        "http 503": 1, "reset": 1, "error in the answer": 2
    }  # fmt: skip
    assert result["errors"]["error in the answer"]["said"] == "EngineCore died"


def test_many_errors_are_invalid_and_force_keeps_them(tmp_path: Path) -> None:
    with odd_server.serve(lambda number: "503" if number % 4 == 0 else "") as server:
        result = run(tmp_path, server.url, "-n", "40", "-c", "4", status=1)
        forced = run(tmp_path, server.url, "-n", "40", "-c", "4", "--force")
    assert result["valid"] is forced["valid"] is False
    assert "25% of the requests failed" in list_reasons(result)[0]


def test_server_that_dies_in_the_middle(tmp_path: Path) -> None:
    """It ends by itself, soon, with what there was."""
    with odd_server.serve(lambda number: "die" if number == 30 else "") as server:
        result = run(tmp_path, server.url, "-n", "10000", "-c", "5", status=1)
    assert result["ended"] == "gone"
    assert result["requests_ok"] >= 20
    assert "stopped answering" in list_reasons(result)[0]
    assert "connect" in result["errors"]


def test_server_that_dies_in_the_warm_up(tmp_path: Path) -> None:
    """Nothing was measured, nothing is written; the error names it."""
    with odd_server.serve(lambda number: "die" if number == 3 else "") as server:
        process = start("--url", server.url, "-c", "2", "--warmup", "300", "-o", str(tmp_path / "none.json"))
        _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 1
    assert "warm-up: the server stopped answering" in err
    assert not (tmp_path / "none.json").exists()


def test_server_that_stalls(tmp_path: Path) -> None:
    """Nothing comes any more: after --timeout it ends, and says so."""
    with odd_server.serve(lambda number: "stall" if number >= 12 else "") as server:
        result = run(tmp_path, server.url, "-n", "1000", "-c", "4", "--timeout", "1s", status=1)
    assert result["ended"] == "stalled"
    assert result["requests_ok"] == 12
    assert result["errors"]["timeout"]["count"] == 4


def test_a_last_request_that_hangs_is_a_timeout(tmp_path: Path) -> None:
    """One of sixty: the run is complete, and valid."""
    with odd_server.serve(lambda number: "stall" if number == 59 else "") as server:
        result = run(tmp_path, server.url, "-n", "60", "-c", "4", "--timeout", "1s")
    assert (list_reasons(result), result["ended"], result["requests_ok"]) == ([], "whole", 59)
    assert result["errors"]["timeout"]["count"] == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_keeps_what_was_measured(tmp_path: Path, truth: str, number: signal.Signals) -> None:
    path = tmp_path / "result.json"
    process = start("--url", truth, "-c", "4", "-n", "100000", "-o", str(path))
    assert process.stderr is not None
    line = process.stderr.readline()
    while "at once" not in line:
        line = process.stderr.readline()
        assert line, "it ended by itself"
    time.sleep(1.0)
    process.send_signal(number)
    out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 130, out + err
    assert "INVALID: stopped before its end" in out
    result = json.loads(path.read_text())
    assert result["ended"] == "stopped"
    assert result["valid"] is False
    assert result["requests_ok"] > 0
    assert 1 <= result["requests_cut_off"] <= 4
    assert result["requests_failed"] == 0


def test_too_few_files_is_told(tmp_path: Path, truth: str) -> None:
    """A hard limit of open files below the streams: INVALID, with the limit's name."""
    path = tmp_path / "result.json"
    limited = f"ulimit -n 96; exec {harness.RAYLAUNCH} bench --no-sample --url {truth} -c 60 -n 120 -o {path}"
    done = subprocess.run(["bash", "-c", limited], capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert done.returncode == 1, done.stderr
    assert any("ulimit -n" in reason for reason in json.loads(path.read_text())["invalid_because"])


def test_tls(tmp_path: Path) -> None:
    """A private CA and a client certificate: refused without, used by the shards with them."""
    ca = PrivateCa.make(tmp_path / "ca")
    shown = ["--cert", str(ca.client[0]), "--key", str(ca.client[1])]
    with odd_server.serve(tls=ca.make_server_context()) as server:
        refused = start("--url", server.url, *shown, "-o", str(tmp_path / "none.json"))
        _, err = refused.communicate(timeout=DEADLINE_S)
        assert refused.returncode == 1
        assert "certificate" in err
        assert "--insecure" in err
        assert "--cacert" in err
        for checked in ("--insecure", f"--cacert={ca.certificate}"):
            result = run(tmp_path, server.url, checked, *shown, "-n", "24", "-c", "6")
            assert (result["requests_ok"], result["requests_failed"]) == (24, 0)


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--url", "http://127.0.0.1:1/v1/chat/completions"], 1, "connection refused by"),
        (["--concurrency", "4", "--rate", "2"], 2, "exclude"),
        (["--concurrency", "0"], 2, "above 0"),
        (["--slo", "ttft=fast"], 2, "ttft=TIME"),
        (["--timeout", "soon"], 2, "time"),
        ([], 1, "nothing serves"),
    ],
)
def test_what_cannot_be_run(arguments: list[str], status: int, words: str) -> None:
    process = start(*arguments)
    _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == status, err
    assert words in err


def test_job_for_ray_submit_leaves_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The script that `ray submit` sends to the head: bench's own arguments, files where its last line says."""
    monkeypatch.setenv("HOME", str(tmp_path))
    with odd_server.serve() as server:
        done = subprocess.run(
            [sys.executable, str(ROOT / "benchmarks/job.py"), "--url", server.url, "-c", "2", "-n", "6", "--force"],
            capture_output=True, text=True, timeout=DEADLINE_S, check=False, cwd=tmp_path,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "2 at once: 6 requests" in done.stdout
    folder = Path(done.stderr.rsplit("files: ", 1)[1].split()[0]).parent
    assert {path.name for path in folder.iterdir()} == {"bench.json", "bench.rows.jsonl.gz", "bench.html"}
