"""Real failures of real programs, and what `raylaunch explain` makes of the log that each leaves."""

import contextlib
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path

import pytest

from raylaunch.explain.read import explain_logs, find_logs
from tests.hub_server import Hub, serve

PYTHON = sys.executable
NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
TAKEN = "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(); port = s.getsockname()[1]; "
NO_SERVER = "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); port = s.getsockname()[1]; "
SHELL = {
    "disk_full": f"{PYTHON} -c \"open('/dev/full', 'w').write('x' * 99999)\"",
    "host_memory_refused": f'ulimit -v 400000; {PYTHON} -c "bytearray(1 << 34)"',
    "open_files": f"ulimit -n 20; {PYTHON} -c \"files = [open('/dev/null') for _ in range(30)]\"",
    "process_limit": f'ulimit -v 400000; {PYTHON} -c "import threading, time\n'
    'for _ in range(999): threading.Thread(target=time.sleep, args=(9,), daemon=True).start()"',
    "process_crashed": f'{PYTHON} -X faulthandler -c "import ctypes; ctypes.string_at(0)"',
    "port_taken": f"{PYTHON} -c \"{TAKEN}import http.server as h; h.HTTPServer(('127.0.0.1', port), None)\"",
    "address_not_local": f"{PYTHON} -c \"import socket; socket.socket().bind(('203.0.113.9', 0))\"",
    "connection_refused": f"{PYTHON} -c \"{NO_SERVER}socket.create_connection(('127.0.0.1', port))\"",
    "dns_failed": f"{PYTHON} -c \"import urllib.request as u; u.urlopen('http://nowhere.invalid')\"",
    "pip_not_found": f"{PYTHON} -m pip install --no-index raylaunch-is-not-there==99",
    "module_missing": f'{PYTHON} -c "import no_such_module"',
    "env_differs": f'{PYTHON} -S -c "import vllm"',
    "vllm_missing": "PATH=/bin; vllm serve",
    "ray_missing": "PATH=/bin; ray start --head",
    "worker_killed": f'{PYTHON} -c "import os; os.kill(os.getpid(), 9)"; true',
    "ssh_unreachable": "ssh -o BatchMode=yes nowhere.invalid",
    "ssh_refused": "ssh -o BatchMode=yes -p 1 127.0.0.1",
    "docker_daemon_down": "docker -H unix:///tmp/there-is-no.sock ps",
    "docker_missing": "PATH=/nowhere; docker ps",
}
"""Key -> what fails so, as a shell command."""

FETCH = "import huggingface_hub as h; h.snapshot_download('acme/model', local_dir='there', max_workers=1)"
REFUSALS = {
    "hf_unauthorized": (401, ""),
    "hf_gated": (403, "GatedRepo"),
    "hf_not_found": (404, "RepoNotFound"),
    "hf_rate_limit": (429, ""),
    "hf_server_error": (502, ""),
}
"""Key -> the hub's status and its X-Error-Code."""

LOAD = """
import json, pathlib, sys, traceback
from safetensors import safe_open
from transformers import AutoConfig, AutoTokenizer
here = pathlib.Path.cwd()
config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "num_attention_heads": 4}
def make(name, **files):
    (here / name).mkdir()
    for file, text in files.items():
        (here / name / file.replace("_json", ".json")).write_text(text)
    return here / name
def fail(key, call):
    try:
        call()
    except Exception:
        (here / f"{key}.log").write_text(traceback.format_exc())
(here / "cut.safetensors").write_bytes(b"\\x40\\0\\0\\0\\0\\0\\0\\0{}")
(here / "pointer.safetensors").write_text("version https://git-lfs.github.com/spec/v1\\noid sha256:00\\nsize 99\\n")
fail("shard_damaged", lambda: safe_open("cut.safetensors", "pt"))
fail("shard_is_lfs_pointer", lambda: safe_open("pointer.safetensors", "pt"))
fail("shard_missing", lambda: safe_open("model-00002-of-00004.safetensors", "pt"))
fail("config_missing", lambda: AutoConfig.from_pretrained(make("empty", other_json="{}")))
fail("config_damaged", lambda: AutoConfig.from_pretrained(make("cut", config_json="{\\"model_type\\": ")))
unknown = make("unknown", config_json=json.dumps(config | {"model_type": "gigant"}))
fail("transformers_too_old", lambda: AutoConfig.from_pretrained(unknown))
own = make("own", config_json=json.dumps(config | {"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}}))
fail("trust_remote_code", lambda: AutoConfig.from_pretrained(own))
fail("tokenizer_missing", lambda: AutoTokenizer.from_pretrained(make("no-tokenizer", config_json=json.dumps(config))))
"""
LOADS = sorted(set(re.findall(r'fail\("(\w+)"', LOAD)))

RANKS = """
import datetime, os, pathlib, signal, sys, time, torch.distributed as d
rank, port, kind = int(sys.argv[1]), sys.argv[2], sys.argv[3]
os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
d.init_process_group("gloo", rank=rank, world_size=2, timeout=datetime.timedelta(seconds=20))
import torch
if kind == "dead" and rank == 1:
    os.kill(os.getpid(), signal.SIGKILL)
if kind == "wedged" and rank == 1:
    time.sleep(100)
if kind == "wedged":
    d.monitored_barrier(timeout=datetime.timedelta(seconds=2), wait_all_ranks=True)
for _ in range(100):
    d.all_reduce(torch.ones(8))
    time.sleep(0.05)
"""


ENGINE = """
import json, pathlib, traceback
from vllm.engine.arg_utils import AsyncEngineArgs
here = pathlib.Path.cwd()
config = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 96, "num_attention_heads": 3,
    "num_key_value_heads": 3, "num_hidden_layers": 2, "intermediate_size": 64, "vocab_size": 100,
    "max_position_embeddings": 2048, "torch_dtype": "float32",
}
(here / "model").mkdir()
(here / "model" / "config.json").write_text(json.dumps(config))
model = str(here / "model")
def fail(key, model=model, **options):
    try:
        AsyncEngineArgs(model=model, skip_tokenizer_init=True, **options).create_engine_config()
    except BaseException:
        (here / f"{key}.log").write_text(traceback.format_exc())
fail("tp_not_divisible", tensor_parallel_size=2, distributed_executor_backend="mp")
fail("max_model_len_too_long", max_model_len=9999)
fail("dtype_unknown", dtype="float17")
fail("quantization_unfit", quantization="awq")
fail("unknown_option", swap_spaces=4)
fail("model_path_missing", model="/there/is/no/such/model")
"""

DRIVER = """
import pathlib, traceback
import ray
from ray._private.utils import check_version_info
here = pathlib.Path.cwd()
def fail(key, call):
    try:
        call()
    except BaseException:
        (here / f"{key}.log").write_text(traceback.format_exc())
head = {"ray_version": "2.44.1", "python_version": "3.11.10"}
fail("ray_version_mismatch", lambda: check_version_info(head, "This process on node 10.0.0.2"))
fail("ray_head_unreachable", lambda: ray.init(address="127.0.0.1:9", log_to_driver=False))
"""


def explain(log: Path) -> list[str]:
    return [cause.key for cause in explain_logs(find_logs([log])).causes]


def run_shell(command: str, folder: Path, **environ: str) -> Path:
    """Run a command; its output as a log."""
    log = folder / "failed.log"
    with log.open("wb") as output:
        subprocess.run(
            ["bash", "-c", command], cwd=folder, stdout=output, stderr=output, stdin=subprocess.DEVNULL,
            env=os.environ | {"PYTHONUNBUFFERED": "1"} | environ, timeout=240, check=False,
        )  # fmt: skip
    return log


DOCKER = [key for key, command in SHELL.items() if command.startswith("docker")]


@pytest.mark.parametrize("key", [pytest.param(key, marks=pytest.mark.root if key in DOCKER else ()) for key in SHELL])
def test_what_a_shell_shows_is_explained(key: str, tmp_path: Path) -> None:
    """Limits of the system, addresses, ssh and pip; docker's own client, which `make test` installs."""
    log = run_shell(SHELL[key], tmp_path)
    assert explain(log) == [key], log.read_text()


@pytest.mark.root  # it becomes another user
def test_a_file_of_another_user_is_explained(tmp_path: Path) -> None:
    secret = tmp_path / "config.json"
    secret.write_text("{}")
    secret.chmod(0o600)
    assert explain(run_shell(f"{' '.join(NOBODY)} cat {secret}", tmp_path)) == ["permission_denied"]


@pytest.mark.parametrize("key", REFUSALS)
def test_a_hub_that_refuses_is_explained(key: str, tmp_path: Path) -> None:
    """Hugging Face's own client against a hub on loopback: token, gated, missing, rate limit, out of order."""
    with serve(Hub("acme/model", {"config.json": b"{}"}, refuse_all=REFUSALS[key])) as hub:
        log = run_shell(f'{PYTHON} -c "{FETCH}"', tmp_path, HF_ENDPOINT=hub.url, HF_TOKEN="hf_" + "a" * 30)
    assert explain(log) == [key], log.read_text()
    assert "a" * 30 not in log.read_text()


def test_a_hub_out_of_reach_is_explained(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        log = run_shell(f'{PYTHON} -c "{FETCH}"', tmp_path, HF_ENDPOINT=url)
    assert explain(log) == ["hf_unreachable"], log.read_text()


@contextlib.contextmanager
def serve_untrusted(folder: Path) -> Iterator[str]:
    """An HTTPS server with a certificate of its own."""
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    subprocess.run([*request, *files], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    server = HTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"https://localhost:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_an_untrusted_certificate_is_explained(tmp_path: Path) -> None:
    with serve_untrusted(tmp_path) as url:
        log = run_shell(f'{PYTHON} -c "{FETCH}"', tmp_path, HF_ENDPOINT=url)
    assert explain(log) == ["certificate_untrusted"], log.read_text()


@pytest.mark.engine
def test_broken_models_are_explained(tmp_path: Path) -> None:
    """Weights cut, missing or left as git-lfs pointers; config and tokenizer missing or broken; a model's own code."""
    run_shell(f"{PYTHON} - <<'END'\n{LOAD}\nEND", tmp_path, HF_HUB_OFFLINE="1")
    found = {key: explain(tmp_path / f"{key}.log") for key in LOADS}
    assert found == {key: [key] for key in LOADS}


@pytest.mark.engine
@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        ("dead", {"peer_lost", "worker_killed"}),  # the second where the shell reports the kill
        ("wedged", {"collective_timeout"}),
        pytest.param("interface", {"gloo_wrong_interface"}, marks=pytest.mark.whole),
    ],
)
def test_ranks_that_fail_are_explained(kind: str, keys: set[str], tmp_path: Path) -> None:
    """Two real ranks over Gloo: one is killed, one stands still, both have a wrong interface."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "ranks.py").write_text(RANKS)
    ranks = f"{PYTHON} ranks.py 1 {port} {kind} 2>other.log & {PYTHON} ranks.py 0 {port} {kind}; kill $!; wait"
    environ = {"GLOO_SOCKET_IFNAME": "eth9"} if kind == "interface" else {"GLOO_SOCKET_IFNAME": "lo"}
    log = run_shell(ranks, tmp_path, OMP_NUM_THREADS="1", **environ)
    (key,) = explain(log)
    assert key in keys, log.read_text()


@pytest.mark.engine
def test_engines_that_refuse_are_explained(tmp_path: Path) -> None:
    """vLLM's own checks of a model and its options."""
    output = run_shell(f"{PYTHON} - <<'END'\n{ENGINE}\nEND", tmp_path, HF_HUB_OFFLINE="1").read_text()
    keys = sorted(set(re.findall(r'fail\("(\w+)"', ENGINE)))
    found = {key: explain(tmp_path / f"{key}.log") if (tmp_path / f"{key}.log").exists() else output for key in keys}
    assert found == {key: [key] for key in keys}


@pytest.mark.slow
def test_drivers_that_find_no_cluster_are_explained(tmp_path: Path) -> None:
    """Ray's own check of versions, and its driver where no head is; no Ray is started."""
    environ = {"RAY_py_gcs_connect_timeout_s": "1", "RAY_NUM_REDIS_GET_RETRIES": "1"}
    output = run_shell(f"{PYTHON} - <<'END'\n{DRIVER}\nEND", tmp_path, **environ).read_text()
    keys = re.findall(r'^fail\("(\w+)"', DRIVER, re.MULTILINE)
    found = {key: explain(tmp_path / f"{key}.log") if (tmp_path / f"{key}.log").exists() else output for key in keys}
    assert found == {key: [key] for key in keys}
