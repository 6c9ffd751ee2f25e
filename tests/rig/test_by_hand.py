"""The README's cluster by hand: `ray start` on two hosts, and a service across the network between them."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rig.host import Host, wait_until
from tests.rig.rig import Rig, start_rig

pytestmark = [pytest.mark.engine, pytest.mark.rig, pytest.mark.root]
ROOT = Path(__file__).parents[2]
SERVE = (
    "raylaunch serve configs/deepseek-r1-70b.yaml --rehearse --set cluster.gpus_per_node=1 "
    "--set engine.tensor_parallel_size=1 --set engine.pipeline_parallel_size=2"
)
"""The README's command, for what two cores carry in a minute: one rank on each host."""


@pytest.fixture
def bare_hosts(tmp_path: Path) -> Iterator[Rig]:
    with start_rig(tmp_path / "hosts", with_docker=False, shared=(ROOT, Path(sys.base_prefix))) as rig:
        yield rig


def type_on(host: Host, command: str, *, timeout_s: float = 120.0) -> str:
    """Type a command in the repository's folder with the environment activated, and return all it printed."""
    activated = f"exec 2>&1; cd {ROOT}; PATH={Path(sys.executable).parent}:$PATH; {command}"
    return host.run(activated, timeout_s=timeout_s).stdout


@pytest.mark.timeout(600)
def test_readme_by_hand_serves_across_two_hosts(bare_hosts: Rig) -> None:
    """Both `ray start`, serve, ask, the curl from the other host, status and stop. Needs root, iproute2 and sshd."""
    head, worker = bare_hosts.head, bare_hosts.workers[0]
    type_on(head, "ray start --head --port=6379 --num-gpus=8")
    type_on(worker, f"ray start --address={head.address}:6379 --num-gpus=8")
    type_on(head, f"({SERVE}; echo exit $?) </dev/null >/tmp/serve.txt 2>&1 & sleep 0.1")

    def has_come_up() -> bool:
        text = head.run("cat /tmp/serve.txt").stdout
        assert "exit" not in text, text + type_on(head, "tail -n 40 ~/.raylaunch/services/8080/engine.log")
        return "Ctrl-C or `raylaunch stop` ends it" in text

    wait_until(has_come_up, "the service", 400)
    text = head.run("cat /tmp/serve.txt").stdout
    assert re.search(rf"^0 +0 +0 +{head.address} ", text, re.M), text
    assert re.search(rf"^1 +0 +1 +{worker.address} ", text, re.M), text
    assert type_on(head, 'raylaunch ask "你是谁" --max-tokens 16')
    body = '{"model": "/data/DeepSeek-R1-Distill-Llama-70B", "prompt": "你是谁", "max_tokens": 16}'
    answer = type_on(
        worker, f"curl -s http://{head.address}:8080/v1/completions -H 'Content-Type: application/json' -d '{body}'"
    )
    assert '"finish_reason"' in answer, answer
    assert f"node {worker.address}: alive, ranks 1" in type_on(head, "raylaunch status")
    assert "stopped" in type_on(head, "raylaunch stop")
    wait_until(lambda: "exit 0" in head.run("cat /tmp/serve.txt").stdout, "the service's end")
    assert "VLLM" not in head.run("ps ax").stdout
    assert "RayWorkerProc" not in worker.run("ps ax").stdout
