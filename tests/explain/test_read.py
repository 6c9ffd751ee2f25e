"""Logs of every kind and format become one answer: cause, place, evidence in order of time, echoes folded."""

import gzip
import io
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path

import pytest

from raylaunch.base.errors import LogError
from raylaunch.explain import report
from raylaunch.explain.causes import Explanation
from raylaunch.explain.line_heads import LineHead, LogOrigin, read_head
from raylaunch.explain.read import LogInput, explain_logs, find_logs

HEALTHY = Path(__file__).parents[1] / "data" / "explain" / "healthy"
LOGS = Path(__file__).parents[1] / "data" / "logs"
RECORDED = {
    "architecture-unknown": ("transformers_too_old", ""),
    "composed-cuda-out-of-memory": ("gpu_oom", "host 10.0.0.2, rank 1"),
    "composed-driver-803": ("driver_image_mismatch", "host 10.0.0.2, rank 1"),
    "composed-driver-804": ("driver_image_mismatch", "host 10.0.0.2, rank 1"),
    "composed-driver-too-old": ("driver_too_old", "host 10.0.0.2, rank 1"),
    "composed-gpu-memory-taken": ("gpu_memory_taken", "host 10.0.0.2, rank 1"),
    "composed-nccl": ("nccl_no_interface", "host 10.0.0.2, rank 1"),
    "composed-no-cache-blocks": ("kv_cache_too_small", "EngineCore"),
    "config-broken": ("config_damaged", ""),
    "config-contradicts-itself": ("config_contradicts", ""),
    "config-missing": ("config_missing", ""),
    "cpu-memory-utilization": ("gpu_memory_taken", "host 10.0.0.1, worker"),
    "dtype-unknown": ("dtype_unknown", ""),
    "engine-killed": ("worker_killed", "EngineCore"),
    "folder-missing": ("model_path_missing", ""),
    "gloo-interface": ("gloo_wrong_interface", "host 10.0.0.2, worker"),
    "kernels-missing": ("kernels_missing", ""),
    "kv-cache-too-small": ("kv_cache_too_small", "EngineCore"),
    "kv-memory-taken": ("gpu_memory_taken", "EngineCore"),
    "max-model-len": ("max_model_len_too_long", ""),
    "quantization-unfit": ("quantization_unfit", ""),
    "raylet-killed": ("ray_node_lost", "raylet"),
    "tokenizer-missing": ("tokenizer_missing", ""),
    "weights-layer-missing": ("weights_mismatch", "host 10.0.0.2, rank 1"),
    "weights-missing": ("shard_missing", "host 10.0.0.2, worker"),
    "weights-shape": ("weights_mismatch", "host 10.0.0.2, rank 1"),
    "weights-truncated": ("shard_damaged", "host 10.0.0.2, rank 1"),
    "worker-killed": ("worker_killed", "host 10.0.0.1"),
}
"""Log -> key and place."""
OOM = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.74 GiB. GPU 1 has a total capacity of 23.57 GiB"
ORIGIN = LogOrigin("x.log", utc_offset_s=0, changed_at=datetime(2026, 11, 27, tzinfo=UTC).timestamp())
MOMENT = datetime(2026, 11, 24, 2, 47, 2, tzinfo=UTC).timestamp()


def head(line: str | bytes, origin: LogOrigin = ORIGIN) -> LineHead:
    return read_head(line if isinstance(line, bytes) else line.encode(), origin)


def make_log(text: str | bytes, origin: LogOrigin = ORIGIN) -> LogInput:
    content = text if isinstance(text, bytes) else text.encode()
    return LogInput(origin, lambda: nullcontext(io.BytesIO(content)))


def explain(*logs: str | bytes) -> Explanation:
    return explain_logs([make_log(log, LogOrigin(f"{at}.log", utc_offset_s=0)) for at, log in enumerate(logs)])


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("ERROR 11-24 02:47:02 [core.py:505] boom", {"level": "ERROR"}),
        ("ERROR 11-24 02:47:02 worker_base.py:148] boom", {"level": "ERROR"}),
        (
            "\x1b[36m(RayWorkerProc pid=7, ip=10.0.0.2)\x1b[0m (Worker_TP3 pid=7) ERROR 11-24 02:47:02 [w.py:9] boom",
            {"host": "10.0.0.2", "pid": 7, "rank": 3, "level": "ERROR"},
        ),
        ("(VllmWorker rank=1 pid=2978) ERROR 11-24 02:47:02 [m.py:3] boom", {"rank": 1, "pid": 2978}),
        ("2026-11-24 02:47:02,000 WARNING services.py:1826 -- boom", {"level": "WARNING"}),
        ("2026-11-24 02:47:02,000\tERROR worker.py:33 -- boom", {"level": "ERROR"}),
        ("[2026-11-24 02:47:02,000 E 12 13] gcs_rpc_client.h:179: boom", {"level": "ERROR", "pid": 12}),
        ("(raylet) [2026-11-24 02:47:02,000 E 12 13] (raylet) node_manager.cc:3069: boom", {"name": "raylet"}),
        ("[rank3]:[E1124 02:47:02.000000000 ProcessGroupNCCL.cpp:629] boom", {"rank": 3, "level": "ERROR"}),
        ("[2026-11-24 02:47:02] gpu7:12:13 [5] boom", {"host": "gpu7", "pid": 12, "gpu": "5"}),
        ("Nov 24 02:47:02 gpu7 kernel: boom", {"host": "gpu7", "is_kernel": True}),
        ("Nov 24 02:47:02 gpu7 kernel: [ 1234.567890] boom", {"host": "gpu7", "is_kernel": True}),
        ("2026-11-24T02:47:02.000000+00:00 gpu7 kernel: boom", {"host": "gpu7", "is_kernel": True}),
        ("2026-11-24T03:47:02+0100 gpu7 dockerd[88]: boom", {"host": "gpu7", "pid": 88}),
        ("[Tue Nov 24 02:47:02 2026] boom", {}),
        ("2026-11-24T02:47:02.000000000Z boom", {}),
        ("2026-11-24T03:47:02.0+01:00 stderr F boom", {}),
        ('{"log":"boom\\n","stream":"stderr","time":"2026-11-24T02:47:02.000Z"}', {}),
        ('{"label":"RAY_WORKER_FAILURE","message":"boom","timestamp":1795488422}', {}),
        ("2026-11-24 02:47:02.000 | ERROR    | boom", {"level": "ERROR"}),
    ],
)
def test_heads_are_taken_off_in_every_format(line: str, expected: dict[str, object]) -> None:
    found = head(line)
    assert found.text == "boom"
    assert found.at == MOMENT
    assert {name: getattr(found, name) for name in expected} == expected


def test_the_kernels_raw_times_count_from_its_start() -> None:
    found = head("[  512.250000] NVRM: boom", LogOrigin("k", boot_at=1000.0))
    assert (found.at, found.is_kernel, found.text) == (1512.25, True, "NVRM: boom")
    assert head("[  512.250000] NVRM: boom").at is None


def test_clocks_and_zones_are_corrected() -> None:
    ahead = LogOrigin("x", utc_offset_s=3600, clock_ahead_s=30.0, changed_at=ORIGIN.changed_at)
    assert head("ERROR 11-24 03:47:32 [core.py:505] boom", ahead).at == MOMENT


@pytest.mark.parametrize(("changed", "year"), [((2026, 1, 3), 2025), ((2026, 12, 31), 2026)])
def test_a_missing_year_is_that_of_the_logs_last_change(changed: tuple[int, int, int], year: int) -> None:
    origin = LogOrigin("x", utc_offset_s=0, changed_at=datetime(*changed, tzinfo=UTC).timestamp())
    at = head("INFO 12-30 10:00:00 [a.py:1] boom", origin).at
    assert at == datetime(year, 12, 30, 10, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    "line", ["INFO 02-30 10:00:00 [a.py:1] boom", "INFO 13-45 99:00:00 [a.py:1] boom", "\x1b[", ""]
)
def test_broken_heads_are_only_text(line: str) -> None:
    assert head(line).at is None


def test_repetitions_are_counted() -> None:
    assert head("(raylet) boom [repeated 12x across cluster] (Ray deduplicates logs by default.)").repeats == 12
    assert head("boom (repeated 3x)").repeats == 3


def test_cause_names_host_rank_gpu_file_and_line() -> None:
    line = f"(RayWorkerProc pid=7, ip=10.0.0.2) (Worker_TP3 pid=7) ERROR 11-24 02:47:02 [w.py:9] {OOM}"
    (cause,) = explain(f"fine\n{line}\n").causes
    (place,) = cause.where
    assert cause.key == "gpu_oom"
    assert (place.host, place.rank, place.file, place.line) == ("10.0.0.2", 3, "0.log", 2)
    assert place.describe() == "host 10.0.0.2, rank 3 (0.log:2)"


def test_what_follows_folds_under_the_cause() -> None:
    """A GPU's fault, the workers that it ended, and the hundred lines of their peers are one answer."""
    kernel = "[Tue Nov 24 02:47:01 2026] NVRM: Xid (PCI:0000:09:00): 79, pid=7, GPU has fallen off the bus.\n"
    engine = "ERROR 11-24 02:47:05 [x.py:1] RayWorkerProc rank=[2] died unexpectedly, shutting down executor.\n"
    engine += "".join(
        f"ERROR 11-24 02:47:1{at % 10} [x.py:1] RuntimeError: [a/pair.cc:{at}] Connection closed by peer [10.0.0.2]\n"
        for at in range(100)
    )
    (cause,) = explain(engine, kernel).causes
    assert cause.key == "gpu_off_the_bus"
    assert cause.echoes >= 90
    assert cause.evidence[0].origin.name == "1.log"
    moments = [entry.head.at for entry in cause.evidence]
    assert moments == sorted(moments)


def test_several_causes_come_by_weight() -> None:
    disk = "OSError: [Errno 28] No space left on device"
    found = explain(f"{OOM}\n{disk}\n")
    assert [cause.key for cause in found.causes] == ["disk_full", "gpu_oom"]
    assert found.causes[0].weight > found.causes[1].weight


def test_what_happened_days_before_comes_last() -> None:
    """A fault in a kernel's log that goes back for weeks neither outweighs nor explains a failure of today."""
    kernel = "[Mon Nov  2 02:47:01 2026] NVRM: Xid (PCI:0000:09:00): 79, pid=7, GPU has fallen off the bus.\n"
    found = explain(kernel, f"ERROR 11-24 02:47:02 [w.py:9] {OOM}\n")
    assert [(cause.key, cause.weight) for cause in found.causes] == [("gpu_oom", 72), ("gpu_off_the_bus", 35)]
    killed = "ERROR 11-24 02:47:05 [x.py:1] RayWorkerProc rank=[2] died unexpectedly, shutting down executor.\n"
    assert [cause.key for cause in explain(kernel, killed).causes] == ["worker_killed", "gpu_off_the_bus"]


def test_unknown_failures_show_the_first_error_of_each_process() -> None:
    found = explain("(A pid=1) ERROR 11-24 02:47:02 [a.py:1] moon\n(B pid=2) ERROR 11-24 02:47:03 [b.py:1] sun\n" * 3)
    assert found.causes == ()
    assert [entry.text for entry in found.first_errors] == ["moon", "sun"]
    assert report.to_lines(found)[0] == "no known cause in 6 lines of 1 log; the first error of each process:"


def test_a_stall_counts_when_it_is_repeated_or_the_last_word() -> None:
    stall = "(E pid=9) INFO 11-24 02:47:02 [s.py:1] No available shared memory broadcast block found in 60 seconds."
    fine = "(E pid=9) INFO 11-24 02:48:02 [a.py:1] fine\n" * 9
    assert explain(f"{stall}\n{fine}").causes == ()
    assert [cause.key for cause in explain(f"{fine}{stall}\n").causes] == ["engine_stalled"]
    assert [cause.key for cause in explain(f"{stall}\n{stall}\n{fine}").causes] == ["engine_stalled"]
    assert [cause.key for cause in explain(f"{stall} (repeated 2x)\n{fine}").causes] == ["engine_stalled"]


def test_a_stall_that_ended_is_no_cause() -> None:
    """vLLM's line while it compiles, twice; then the same process goes on. Another process has no such line."""
    stall = "(E pid={}) INFO 11-24 02:47:02 [s.py:1] No available shared memory broadcast block found in 60 seconds.\n"
    done = "(E pid=9) INFO 11-24 02:49:02 [core.py:218] init engine (profile, create kv cache) took 130 s\n"
    rest = "(E pid=9) INFO 11-24 02:50:02 [a.py:1] fine\n" * 9
    assert explain(stall.format(9) * 2 + done + rest).causes == ()
    assert [cause.key for cause in explain(stall.format(8) * 2 + done + rest).causes] == ["engine_stalled"]


def test_an_event_that_no_dashboard_took_is_no_cause() -> None:
    """A worker's agent cannot report to a dashboard on the head's loopback; what it wanted to report counts."""
    event = "'label': 'RAY_WORKER_FAILURE', 'message': 'A worker died or was killed while executing a task'"
    log = f"""\
2026-11-24 02:47:02,352\tERROR event_agent.py:106 -- Report event failed: [{event}]
Traceback (most recent call last):
ConnectionRefusedError: [Errno 111] Connect call failed ('127.0.0.1', 8265)
"""
    assert [cause.key for cause in explain(log).causes] == ["worker_killed"]


def test_a_driver_that_ended_is_no_cause() -> None:
    """As after each `raylaunch restart`, by Ray 2.60's own logs; a worker's end is one."""
    ray = "[2026-11-24 02:47:02,216 I 66 90] (gcs_server) gcs_worker_manager.cc:55: "
    ended = "address = 10.0.0.1, exit_type = SYSTEM_ERROR, exit_detail = Worker unexpectedly exits"
    owner = "The actor is dead because its owner has died. Owner worker exit type: SYSTEM_ERROR"
    lines = [
        f"Reporting worker exit, worker id = 0c000000{'f' * 48}, node id = 1c, {ended}",
        f"Reporting worker exit, worker id = {'ab01' * 14}, node id = 1c, {ended}. The process receives a SIGTERM.",
        f"Force kill actor request has received. exiting immediately... {owner} Worker exit detail: crash",
        f"RayletIpcClient::Disconnect, exit_type=INTENDED_SYSTEM_EXIT, exit_detail={owner} Worker exit detail: crash",
    ]
    assert explain("".join(f"{ray}{line}\n" for line in lines)).causes == ()
    killed = f"{ray}Reporting worker exit, worker id = {'ab01' * 14}, node id = 1c, {ended}\n"
    (cause,) = explain_logs([make_log(killed, LogOrigin("x", host="10.0.0.9", utc_offset_s=0))]).causes
    assert (cause.key, cause.where[0].host) == ("worker_killed", "10.0.0.1")  # not the head, whose log it is


def test_what_users_wrote_is_no_cause() -> None:
    assert explain(f"INFO 11-24 02:47:02 [logger.py:39] Received request a-1: prompt: 'why {OOM}'\n").causes == ()


@pytest.mark.parametrize(
    "log",
    [
        OOM.encode() + b"\r\n",
        b"\xff\xfe\x80 bad\n\x1b[31m" + OOM.encode() + b"\x1b[0m",
        b"Loading: 10%\rLoading: 20%\r" + OOM.encode(),
        OOM.encode().replace(b"CUDA", b"CUDA", 1) + b"\n" + b"x" * (9 << 20) + b"\n",
        b"x" * (9 << 20) + b"\n" + OOM.encode(),
    ],
    ids=["crlf", "invalid-utf8", "progress-bar", "long-line-after", "long-line-before"],
)
def test_any_bytes_are_read(log: bytes) -> None:
    assert [cause.key for cause in explain(log).causes] == ["gpu_oom"]


def test_docker_json_with_quotes_is_found() -> None:
    line = r'{"log":"could not select device driver \"\" with capabilities: [[gpu]].\n","stream":"stderr"}'
    (cause,) = explain(line).causes
    assert cause.key == "no_container_toolkit"


def test_folders_hold_rotated_and_compressed_logs(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "raylet.1.gz").write_bytes(gzip.compress(OOM.encode()))
    (tmp_path / "raylet.out").write_text("fine\n")
    (tmp_path / "binary").write_bytes(b"\0\1" * 300 + OOM.encode())
    found = explain_logs(find_logs([tmp_path]))
    assert [cause.key for cause in found.causes] == ["gpu_oom"]
    assert found.logs == 2


def test_a_cut_gzip_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    whole = gzip.compress((OOM + "\n").encode() * 200_000)
    (tmp_path / "a.gz").write_bytes(whole[: len(whole) // 2])
    assert explain_logs(find_logs([tmp_path / "a.gz"])).causes[0].key == "gpu_oom"


def test_missing_and_empty_places_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="cannot be read"):
        find_logs([tmp_path / "none.log"])
    with pytest.raises(LogError, match="holds no logs"):
        find_logs([tmp_path])


def test_secrets_are_masked_and_control_characters_escaped() -> None:
    token = "hf_" + "a1B2" * 6
    found = explain(f"401 Client Error: Unauthorized for url with Bearer abcdefgh12345 {token} \x07\n")
    text = "\n".join(report.to_lines(found))
    assert token not in text
    assert "abcdefgh12345" not in text
    assert "\x07" not in text


def test_the_kernels_log_rules_out(tmp_path: Path) -> None:
    assert any("not checked: the kernel's log" in text for text in explain(OOM).ruled_out)
    kernel = "Nov 24 02:47:02 gpu7 kernel: NVRM: loading NVIDIA UNIX x86_64 Kernel Module failed to be quiet\n"
    (text,) = [text for text in explain(OOM, kernel).ruled_out if "kernel" in text]
    assert text.startswith("no GPU fault (Xid), no process killed for memory")
    assert "gpu7" in text


def test_json_has_what_programs_need() -> None:
    (cause,) = report.to_json(explain(f"(Worker_TP1 pid=7) ERROR 11-24 02:47:02 [w.py:9] {OOM}\n"))["causes"]
    assert {"key", "what", "where", "evidence", "fix", "weight"} <= cause.keys()
    assert cause["evidence"][0]["line"] == 1
    assert cause["where"][0]["rank"] == 1


@pytest.mark.parametrize("name", sorted(path.name for path in HEALTHY.iterdir()))
def test_a_healthy_log_has_no_cause(name: str) -> None:
    """Start, answers, load and stop of a service on CPU, Ray's own logs, and warnings that mean nothing."""
    assert [cause.key for cause in explain_logs(find_logs([HEALTHY / name])).causes] == []


@pytest.mark.parametrize(("name", "expected"), RECORDED.items())
def test_a_recorded_failure_has_its_key_and_place(name: str, expected: tuple[str, str]) -> None:
    """Logs of real failed starts over two nodes; nothing beside the cause."""
    (cause,) = explain_logs(find_logs([LOGS / f"{name}.log"])).causes
    assert cause.key == expected[0]
    assert cause.where[0].describe().partition(" (")[0].startswith(expected[1])


def test_every_recorded_failure_is_listed() -> None:
    assert {log.stem for log in LOGS.glob("*.log")} == set(RECORDED)
