"""The table of known failures: each finds its own lines, reported lines have one, and the table's form is checked."""

import csv
import re
from pathlib import Path

import pytest

from raylaunch.explain import read
from raylaunch.explain.signatures import by_key, find, fix_of, load, read_table
from raylaunch.node.nvidia_codes import XIDS, XIDS_OF_PROGRAMS

REPORTED = Path(__file__).parents[1] / "data" / "explain" / "reported.tsv"
HEALTHY = [
    f"(EngineCore pid=99) INFO 11-24 02:{at // 60:02d}:{at % 60:02d} [loggers.py:259] Engine 000: Avg throughput: "
    f"{at}.5 tokens/s, Running: {at % 7} reqs, Waiting: 0 reqs, GPU KV cache usage: 4.2%"
    for at in range(3000)
]
DOCKER = "2026-11-28T01:02:03.123456789Z "
RAY = "\x1b[36m(RayWorkerProc pid=7, ip=10.0.0.2)\x1b[0m "
ACTIONS = (
    46,
    48,
    54,
    62,
    64,
    74,
    78,
    79,
    94,
    95,
    109,
    110,
    119,
    120,
    136,
    140,
    143,
    *range(144, 152),
    154,
    155,
    156,
    158,
)
"""Xids for which NVIDIA's catalogue has an action beyond restarting the program."""


def read_reported() -> list[tuple[str, str]]:
    with REPORTED.open() as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [(row["key"], row["line"].replace("\\n", "\n")) for row in rows]


def explain(lines: list[str]) -> list[str]:
    return [cause.key for cause in read.explain_lines(lines).causes]


def test_keys_are_unique_and_many() -> None:
    keys = [signature.key for signature in load()]
    assert len(keys) == len(set(keys)) == len(by_key())
    assert len(keys) >= 120


@pytest.mark.parametrize("key", [signature.key for signature in load()])
def test_a_signature_finds_its_lines_and_no_other_does(key: str) -> None:
    """Each line alone, and as docker and Ray write it; `least` times where one is not enough."""
    signature = by_key()[key]
    assert signature.lines
    for line in signature.lines:
        for prefix in ("", DOCKER, DOCKER + RAY, RAY):
            lines = [prefix + part for part in line.splitlines()]
            assert explain(lines * signature.least) == [key], prefix + line


def test_texts_are_filled_and_links_are_there() -> None:
    for signature in load():
        assert "{" not in fix_of(signature.key)
        assert signature.link.startswith("https://")
        assert signature.literals, f"{signature.key} would be searched in every line"
        assert signature.under <= by_key().keys(), signature.key
        assert 0 < signature.weight < 100


@pytest.mark.parametrize(("key", "line"), read_reported())
def test_reported_failures_are_found_alone_and_inside_a_long_healthy_log(key: str, line: str) -> None:
    """Lines of public reports."""
    assert explain(line.splitlines()) == [key]
    assert explain([*HEALTHY[:1500], *line.splitlines(), *HEALTHY[1500:]]) == [key]


def test_a_healthy_log_has_no_cause() -> None:
    assert explain(HEALTHY) == []


def test_every_xid_that_needs_an_action_has_one() -> None:
    """Every Xid that raylaunch names, and every one of NVIDIA's catalogue with an action."""
    for xid in {*XIDS, *ACTIONS}:
        finding = find(f"NVRM: Xid (PCI:0000:3b:00): {xid}, pid=4711, name=python3, Ch 00000008")
        assert finding is not None, xid
        assert finding.groups["gpu"] == "0000:3b:00"
        if xid not in XIDS_OF_PROGRAMS | {94, 92}:
            assert finding.signature.weight >= 80, xid


def test_an_unknown_xid_and_no_recovery_are_no_cause() -> None:
    assert find("NVRM: Xid (PCI:0000:3b:00): 106, SMBPBI Test Message") is None
    changed = "NVRM: Xid (PCI:0000:3b:00): 154, GPU recovery action changed from 0x1 (GPU Reset Required) to 0x0 (None)"
    assert find(changed) is None


def test_no_cause_follows_from_itself() -> None:
    """`under` has no circle."""

    def climb(key: str, path: tuple[str, ...]) -> None:
        assert key not in path, path
        for above in by_key()[key].under:
            climb(above, (*path, key))

    for key in by_key():
        climb(key, ())


def test_a_table_of_five_lines_is_a_signature() -> None:
    """What CONTRIBUTING shows."""
    text = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()
    example = re.search(r"^```\n(\w+  \d\d  .*?)^```", text, re.MULTILINE | re.DOTALL)
    assert example is not None
    (signature,) = read_table(example[1])
    assert len(example[1].splitlines()) == 5
    assert signature.search(signature.lines[0])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("Key 80 vllm https://x.org/a\n", "line 1: not KEY"),
        ("a_key  80  vllm  https://x.org/a\n  matches  x\n", "line 2: not one of"),
        ("\na_key  80  vllm  https://x.org/a\n  match  x\n  cause  c\n  fix  f\n", "line 2: a_key has no line"),
    ],
)
def test_a_wrong_table_names_the_line(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=re.escape(problem)):
        list(read_table(text))


@pytest.mark.parametrize(
    "line",
    [
        "[rank9]:[W ProcessGroupGloo.cpp:721] Warning: Unable to resolve hostname to a (local) address. Using the "
        "loopback address as fallback. Manually set the network interface to bind to with GLOO_SOCKET_IFNAME.",
        "[2024-08-07 10:14:35,261 I 727164 727164] global_state_accessor.cc:432: This node has an IP address of "
        "10.6.0.55, but we cannot find a local Raylet with the same address.",
        "WARNING 11-02 09:14:22 [custom_all_reduce.py:16] Custom allreduce is disabled because your platform lacks GPU "
        "P2P capability or P2P test failed.",
        "INFO 11-02 09:14:22 [network_utils.py:172] Port 8100 is already in use, trying port 8101",
        "WARNING 11-02 09:14:22 [utils.py:1] Address already in use. Retrying with a new port.",
        "WARNING 11-02 09:14:22 [r.py:1] X has no vLLM implementation, falling back to Transformers implementation.",
        "WARNING 11-02 09:14:22 [v.py:1] The number of vision attention heads is not divisible by the tensor parallel "
        "size. Falling back to data parallelism for the vision encoder.",
        "WARNING 11-02 09:14:22 [u.py:1] To make v1/embeddings API fast, please install orjson by `pip install orjson`",
        "RuntimeError: NIXL compatibility hash mismatch. Local: 7, Remote: 7.",
        "WARNING 11-02 09:14:22 [flashinfer.py:637] NVIDIA artifactory returned failed status code: 403",
        "DEBUG 11-02 09:14:22 [hf.py:316] There is no chat template fallback for GemmaForCausalLM",
        "WARNING 11-02 09:14:22 [tokenizer.py:91] Failed to generate chat template from 'm': x. Falling back to no "
        "chat template.",
        "WARNING 11-02 09:14:22 [logging_utils.py:514] RAY_SERVE_ENABLE_MEMORY_PROFILING is enabled, but memray is not "
        "installed. No memory profiling is happening. `pip install memray` to enable memory profiling.",
        "MXFP4 quantization is only supported on GPUs with compute capability >= 7.5 (e.g T4, A100, L4, H100, or "
        "B200). We will default to dequantizing the model to bf16.",
        "DEBUG 11-02 09:14:22 [lora_utils.py:172] LoRA adapter config file not found at /m",
        "WARNING 11-02 09:14:22 [mooncake_connector.py:82] Please install mooncake by following the instructions at "
        "https://github.com/kvcache-ai/Mooncake/blob/main/doc/en/build.md to run VLLM with MooncakeTransferEngine.",
        "ValueError: EC source size mismatch for mm_hash=7",
        '        "OOMKilled": false,',
        "[c10d] recvVector failed on SocketImpl(fd=62): failed to recv, got 0 bytes",
        "[2026-11-02 10:11:12,496 W 42067 42248] core_worker.cc:1: Shutting down the core worker because the local "
        "raylet failed. Check out the raylet.out log file.",
        "MemoryError: Not enough space in the data buffer, try calling free_buf() to free up space",
    ],
)
def test_a_line_that_only_looks_like_a_failure_is_none(line: str) -> None:
    """What healthy processes write too, and messages that hold another failure's words."""
    assert explain([line]) == []


def test_a_request_that_a_client_got_wrong_hides_no_failure() -> None:
    """A refused request in a server's log, and a worker that is killed later."""
    refused = "ValueError: This model's maximum context length is 4096 tokens. However, you requested 6012 tokens."
    killed = "A worker died or was killed while executing a task by an unexpected system error."
    assert explain([refused]) == ["prompt_too_long"]
    assert explain([refused, *HEALTHY[:9], killed]) == ["worker_killed"]
