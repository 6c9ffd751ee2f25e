"""The sentence that a failed start-up ends with, from logs of real failed start-ups.

tests/data/logs/*.log were recorded from `raylaunch.server` with vLLM 0.32 on CPU over two Ray nodes (TP=2), each with
one thing broken on purpose; long tracebacks are cut in the middle and addresses and paths replaced. Those named
composed-* are not recorded: they carry the error that a GPU would cause, as vLLM, PyTorch and NCCL print it.
"""

from pathlib import Path

import pytest

from raylaunch.explain.diagnose import Failure, find_first_error, suggest_fix
from raylaunch.explain.log_lines import LogSource, parse_line

LOGS = Path(__file__).parents[1] / "data" / "logs"

SENTENCES = {
    "architecture-unknown": (
        "API server",
        "The checkpoint you are trying to load has model type `gigant` but Transformers does not recognize",
        "does not know the model",
    ),
    "config-broken": (
        "API server",
        "It looks like the config file at '/data/model/config.json' is not a valid JSON file.",
        "hf download",
    ),
    "config-contradicts-itself": (
        "API server",
        "The hidden size (64) is not a multiple of the number of attention heads (3).",
        "config.json",
    ),
    "config-missing": ("API server", "/data/model has no config.json that vLLM could read", "hf download"),
    "cpu-memory-utilization": (
        "worker on node 10.0.0.1 (pid 18936)",
        "Available memory on node 0 (12.45/15.21 GiB) on startup is less than desired CPU memory utilization",
        "engine.gpu_memory_utilization",
    ),
    "dtype-unknown": (
        "API server",
        "dtype: Input should be 'auto', 'half', 'float16', 'bfloat16', 'float' or 'float32', not 'float17'",
        "engine.dtype takes",
    ),
    "engine-killed": ("engine", "the engine's process was killed (signal 9; often the kernel, out of memory)", "dmesg"),
    "folder-missing": ("API server", "the model folder /data/model-not-there does not exist", "model.path"),
    "gloo-interface": (
        "worker on node 10.0.0.2 (pid 20269)",
        "Unable to find address for: eth9",
        "GLOO_SOCKET_IFNAME",
    ),
    "kernels-missing": (
        "worker on node 10.0.0.1 (pid 1207)",
        "vLLM's compiled kernels could not be loaded (init_cpu_memory_env is missing)",
        "libnuma1",
    ),
    "kv-cache-too-small": (
        "engine",
        "To serve at least one request with the model's max seq len (2048), (0.0 GiB KV cache is needed",
        "engine.max_model_len",
    ),
    "kv-memory-taken": (
        "a worker",
        "Available memory on node 0 (12.19/15.21 GiB) on kv cache",
        "kv_cache_memory_bytes",
    ),
    "max-model-len": (
        "API server",
        "User-specified max_model_len (8192) is greater than the derived max_model_len",
        "engine.max_model_len",
    ),
    "quantization-unfit": ("API server", "Cannot find the config file for awq", "engine.quantization"),
    "raylet-killed": ("a node", "its Ray node (raylet) was killed or is out of reach", "ray status"),
    "tokenizer-missing": ("API server", "the model folder has no tokenizer that can be read", "engine.tokenizer"),
    "weights-layer-missing": (
        "worker rank 1 on node 10.0.0.2 (pid 18300)",
        "Following weights were not initialized from checkpoint: {'model.layers.4",
        "do not belong together",
    ),
    "weights-missing": (
        "worker on node 10.0.0.2 (pid 17777)",
        "Cannot find any model weights with `/data/model`",
        "hf download",
    ),
    "weights-shape": (
        "worker rank 1 on node 10.0.0.2 (pid 18074)",
        "start (128) + length (128) exceeds dimension size (128).",
        "do not belong together",
    ),
    "weights-truncated": (
        "worker rank 1 on node 10.0.0.2 (pid 17518)",
        "a weight file is cut short or damaged (Error while deserializing header: incomplete metadata",
        "rsync",
    ),
    "worker-killed": (
        "worker rank 0 on node 10.0.0.1 (pid 21010)",
        "the worker was killed (most likely signal 9; often the kernel, out of memory)",
        "dmesg",
    ),
    "composed-cuda-out-of-memory": (
        "worker rank 1 on node 10.0.0.2 (pid 17518)",
        "CUDA out of memory. Tried to allocate 224.00 MiB.",
        "engine.max_num_seqs",
    ),
    "composed-driver-803": (
        "worker rank 1 on node 10.0.0.2 (pid 17518)",
        "Unexpected error from cudaGetDeviceCount()",
        "update the NVIDIA driver",
    ),
    "composed-driver-804": (
        "worker rank 1 on node 10.0.0.2 (pid 17518)",
        "Unexpected error from cudaGetDeviceCount()",
        "update the NVIDIA driver",
    ),
    "composed-driver-too-old": (
        "worker rank 1 on node 10.0.0.2 (pid 17518)",
        "The NVIDIA driver on your system is too old (found version 12040).",
        "update the NVIDIA driver",
    ),
    "composed-gpu-memory-taken": (
        "worker rank 1 on node 10.0.0.2 (pid 17518)",
        "Free memory on device cuda:0 (18.21/23.52 GiB) on startup is less than desired GPU memory utilization",
        "nvidia-smi",
    ),
    "composed-nccl": (
        "worker rank 1 on node 10.0.0.2 (pid 17518)",
        "NCCL: unhandled system error: Bootstrap : no socket interface found",
        "NCCL_SOCKET_IFNAME",
    ),
    "composed-no-cache-blocks": (
        "engine",
        "No available memory for the cache blocks.",
        "raise engine.gpu_memory_utilization",
    ),
}
"""Log -> where, how the sentence begins, and a word of the remedy."""

CORE = "(EngineCore pid=100) ERROR 11-24 02:47:02 [core.py:1510] "
WORKER0 = "\x1b[36m(RayWorkerProc pid=7, ip=10.0.0.1)\x1b[0m (Worker_PP0_TP0 pid=7) ERROR 11-24 02:47:01 [w.py:9] "
WORKER5 = "\x1b[36m(RayWorkerProc pid=8, ip=10.0.0.2)\x1b[0m (Worker_PP1_TP1 pid=8) ERROR 11-24 02:47:01 [w.py:9] "
LAYOUT = "(EngineCore pid=100) INFO 11-24 02:46:00 [core.py:133] tensor_parallel_size=4, pipeline_parallel_size=2"


def find(*lines: str) -> Failure:
    failure = find_first_error(lines)
    assert failure is not None
    return failure


def traceback(prefix: str, error: str) -> list[str]:
    frames = ["Traceback (most recent call last):", '  File "/x/vllm/worker.py", line 5, in load', "    go()"]
    return [prefix + line for line in [*frames, *error.splitlines()]]


def test_every_log_is_listed():
    assert {log.stem for log in LOGS.glob("*.log")} == set(SENTENCES)


@pytest.mark.parametrize("name", sorted(SENTENCES))
def test_a_failed_start_is_explained_by_its_first_real_error(name):
    where, message, remedy = SENTENCES[name]
    failure = find(*(LOGS / f"{name}.log").read_text().splitlines())
    assert failure.where == where
    assert failure.message.startswith(message)
    assert remedy in suggest_fix(failure)
    assert 1 <= len(failure.excerpt) <= 8
    assert "\n" not in failure.message


def test_a_log_without_errors_has_none():
    assert find_first_error(["INFO 11-24 02:47:02 [core.py:133] all is well", "", "Loading safetensors: 100%"]) is None


def test_a_log_that_ends_inside_a_traceback_has_none():
    assert find_first_error(traceback(CORE, "x")[:3]) is None


def test_a_line_is_split_into_process_and_body():
    line = parse_line(WORKER5 + "boom\n")
    assert line.source == LogSource("Worker_PP1_TP1", 8, "10.0.0.2")
    assert (line.level, line.place, line.body) == ("ERROR", "w.py:9", "boom")


def test_a_numbered_list_in_a_message_is_no_process():
    assert parse_line("(1) a `tokenizers` library").source == LogSource()


def test_tracebacks_of_interleaved_workers_are_kept_apart():
    first, second = traceback(WORKER0, "ValueError: zero"), traceback(WORKER5, "KeyError: 'five'")
    mixed = [line for pair in zip(second, first, strict=True) for line in pair]
    failure = find(LAYOUT, *mixed)
    assert failure.message == "KeyError: 'five' (at vllm/worker.py:5)"
    assert failure.where == "worker rank 5 on node 10.0.0.2 (pid 8)"


def test_the_cause_wins_over_a_connection_that_another_worker_lost_before():
    lost = traceback(WORKER0, "RuntimeError: [gloo] Connection closed by peer [10.0.0.2]:3112")
    cause = traceback(WORKER5, "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.")
    failure = find(*lost, *cause, *traceback(CORE, "RuntimeError: Engine core initialization failed."))
    assert failure.exception == "OutOfMemoryError"


def test_a_lost_connection_is_reported_where_nothing_explains_it():
    lost = traceback(WORKER0, "RuntimeError: [gloo] Connection closed by peer [10.0.0.2]:3112")
    failure = find(*lost, *traceback("", "RuntimeError: Engine core initialization failed. Failed core proc(s): {}"))
    assert "Connection closed by peer" in failure.message
    assert "firewalls" in suggest_fix(failure)


def test_a_workers_own_error_wins_over_the_report_of_its_death():
    death = (
        "(raylet) A worker died or was killed while executing a task by an unexpected system error. Worker IP "
        "address: 10.0.0.2 Worker port: 1 Worker PID: 8 Worker exit type: SYSTEM_ERROR Worker exit detail: End of file"
    )
    cause = traceback(WORKER5, "ValueError: real")
    assert find(death, *cause).message == "real"
    assert "was killed" in find(death, *traceback(WORKER0, "ValueError: a consequence")).message


def test_rays_memory_monitor_is_named():
    line = "(raylet, ip=10.0.0.2) 1 worker(s) were killed due to the node running low on memory. Look at the logs."
    failure = find(line, *traceback("", "RuntimeError: Engine core initialization failed. Failed core proc(s): {}"))
    assert failure.where == "node 10.0.0.2"
    assert "low on host memory" in failure.message


def test_a_segmentation_fault_is_a_crash():
    failure = find(WORKER5.partition(" ERROR")[0] + " Fatal Python error: Segmentation fault")
    assert failure.message == "the process crashed: Segmentation fault"


def test_of_a_chain_the_cause_is_reported():
    lines = [
        *traceback("", "ValueError: the cause"),
        "",
        "The above exception was the direct cause of the following exception:",
        "",
        *traceback("", "RuntimeError: the consequence"),
    ]
    assert find(*lines).message == "the cause"


def test_of_a_handled_error_the_one_raised_for_it_is_reported():
    during = ["", "During handling of the above exception, another exception occurred:", ""]
    raised = find(*traceback("", "OSError: errno 2"), *during, *traceback("", "ValueError: config.json is missing"))
    assert raised.message == "config.json is missing"
    cleanup = find(*traceback("", "OSError: errno 2"), *during, *traceback("", "AttributeError: no attribute x"))
    assert cleanup.message == "errno 2"


def test_an_assertion_without_text_is_reported_with_its_place():
    assert find(*traceback(CORE, "AssertionError")).message == "AssertionError (at vllm/worker.py:5)"


def test_the_outermost_error_is_reported_where_there_is_nothing_else():
    failure = find(*traceback("", "RuntimeError: Engine core initialization failed. See root cause above."))
    assert failure.message.startswith("Engine core initialization failed")


def test_an_excerpt_does_not_repeat_arguments():
    error = (
        "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig\n"
        "  Value error, no [type=value_error, input_value=ArgsKwargs((), {'hf_token': 'hf_secret'}), input_type=A]"
    )
    failure = find(*traceback("", error))
    assert failure.message == "no"
    assert not any("hf_secret" in line for line in failure.excerpt)


def test_an_unknown_error_has_no_remedy():
    assert suggest_fix(Failure("the moon is full", "engine", "LunarError")) == ""
