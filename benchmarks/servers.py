"""The two servers that are compared, each started as its user starts it: `raylaunch serve`, and vLLM's own."""

import contextlib
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

READY_DEADLINE_S = 900.0
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Server:
    """A server that answered its first completion."""

    name: str
    url: str
    model: str
    ready_s: float
    """Seconds from starting the command to the first completion's answer."""
    pid: int = 0
    """Of the command."""

    def read_cpu_s(self) -> float:
        """CPU seconds that its processes have used so far; those that have ended do not count."""
        import psutil

        processes = psutil.Process(self.pid).children(recursive=True)
        return sum(read_cpu_s(process.pid) for process in processes if process.is_running()) + read_cpu_s(self.pid)


def find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def complete(url: str, model: str) -> bool:
    """Whether a one-token completion comes back."""
    body = {"model": model, "prompt": "Hello", "max_tokens": 1, "temperature": 0}
    request = urllib.request.Request(
        f"{url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=600) as response:
            return response.status == 200
    except (urllib.error.URLError, OSError):
        return False


def find_process(home: Path, word: str) -> int:
    """The pid of the process of the service with this RAYLAUNCH_HOME whose command line has `word`.

    Of several the oldest: the younger one stands by.
    """
    from raylaunch.base import processes

    found = [processes.ProcessId.of(pid) for pid in processes.list_marked("RAYLAUNCH_HOME", str(home), word)]
    if living := [one for one in found if one is not None]:
        return min(living, key=lambda one: one.started).pid
    raise SystemExit(f"no process of the service has {word} in its command line")


def read_cpu_s(pid: int) -> float:
    """CPU seconds that a process has used so far, in all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def start(
    name: str, command: list[str], *, port: int, model: str, environ: Mapping[str, str], log: Path
) -> Iterator[Server]:
    """Run a server's command until the end of the block; ready means a completion came back, for both alike."""
    began = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            env=os.environ | environ, start_new_session=True,
        )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        while not complete(url, model):
            if process.poll() is not None or time.monotonic() - began > READY_DEADLINE_S:
                raise SystemExit(f"{name} did not come up: see {log}\n" + log.read_text(errors="replace")[-2000:])
            time.sleep(0.1)
        yield Server(name, url, model, time.monotonic() - began, process.pid)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextlib.contextmanager
def ray_nodes(folder: Path, nodes: int, gpus: int, **environ: str) -> Iterator[str]:
    """Ray nodes at 127.0.0.1, 127.0.0.2, ..., with `gpus` GPUs of this machine each; the address of the first."""
    address = f"127.0.0.1:{find_free_port()}"
    port = address.rpartition(":")[2]
    started = []
    for number in range(nodes):
        where = ["--head", f"--port={port}", "--include-dashboard=false"] if number == 0 else [f"--address={address}"]
        ip = f"127.0.0.{number + 1}"
        command = [
            sys.executable, "-m", "ray.scripts.scripts", "start", *where, "--block", f"--num-gpus={gpus}",
            f"--node-ip-address={ip}", f"--temp-dir={folder / f'r{number}'}", "--disable-usage-stats",
        ]  # fmt: skip
        mine = ",".join(list_gpus()[number * gpus : (number + 1) * gpus])
        own = {"CUDA_VISIBLE_DEVICES": mine, "VLLM_HOST_IP": ip, "VLLM_CACHE_ROOT": str(folder / f"cache-{number}")}
        with (folder / f"ray{number}.log").open("wb") as log:
            started.append(
                subprocess.Popen(
                    command, env=os.environ | own | environ, stdout=log, stderr=log, start_new_session=True
                )
            )
        time.sleep(8)
    try:
        yield address
    finally:
        for process in reversed(started):
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()


def list_gpus() -> list[str]:
    """The GPUs to use, as CUDA_VISIBLE_DEVICES names them."""
    if visible := os.environ.get("CUDA_VISIBLE_DEVICES"):
        return visible.split(",")
    listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=True).stdout
    return [str(number) for number in range(len(listed.splitlines()))]


def find_demo_model() -> str:
    """The demo model's folder, fetched into raylaunch's own folder where it is not there yet."""
    from raylaunch.config import launch_file
    from raylaunch.weights.fetch_local import fetch_model

    demo = launch_file.load(None, environ=os.environ)
    return str(fetch_model(demo.model.repo, demo.model.revision, demo.model_folder, report=print))


def write_launch(folder: Path, model: str, engine: Mapping[str, Any]) -> Path:
    """A launch file for one worker on this machine."""
    launch = folder / "launch.yaml"
    blocks = {"model": {"repo": "bench/model", "path": model}, "cluster": {"local": True}, "engine": dict(engine)}
    launch.write_text(yaml.safe_dump(blocks))
    return launch


def raylaunch_command(launch: Path, port: int, *more: str) -> list[str]:
    """`raylaunch serve` of this Python."""
    return [sys.executable, "-m", "raylaunch", "serve", str(launch), "--set", f"server.port={port}", *more]


def bench_command(server: Server, result: Path, *more: str) -> list[str]:
    """`raylaunch bench` of this Python and this machine alone."""
    command = [sys.executable, "-m", "raylaunch", "bench", "--url", server.url, "--here"]
    return [*command, "--model", server.model, "-o", str(result), *more]


def vllm_command(model: str, port: int, engine: Mapping[str, Any]) -> list[str]:
    """vLLM's own server with the same engine arguments, as flags."""
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--model", model]
    for key, value in engine.items():
        flag = f"--{key.replace('_', '-')}"
        command += [flag] if value is True else [flag, str(value)]
    return command


def describe_machine() -> dict[str, Any]:
    """What a reader needs to place the figures."""
    from raylaunch.base import versions

    cpu = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    gpu = subprocess.run(
        ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"],
        capture_output=True, text=True, check=False,
    ).stdout.splitlines() if shutil.which("nvidia-smi") else []  # fmt: skip
    return {
        "gpus": gpu,
        "cpu": cpu,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {package: versions.find_version(package) for package in ("raylaunch", "ray", "vllm", "torch")},
    }


def write_result(name: str, result: Mapping[str, Any], folder: Path = RESULTS) -> None:
    """Keep a result file, with the command that made it, and print it."""
    whole = {
        "command": " ".join(["python", "-m", sys.modules["__main__"].__spec__.name, *sys.argv[1:]]),  # type: ignore[union-attr]
        "date": time.strftime("%Y-%m-%d"),
        "machine": describe_machine(),
        **result,
    }
    folder.mkdir(exist_ok=True, parents=True)
    (folder / f"{name}.json").write_text(json.dumps(whole, indent=1) + "\n")
    print(json.dumps(whole, indent=1))


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder for logs and raylaunch's own state, removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        yield Path(folder)
