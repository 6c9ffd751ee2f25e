"""The head loses power and comes back, and so does the service, by the docker commands of docs/keep-serving.md."""

import re
import time
from pathlib import Path

import pytest

from raylaunch.provision.template import LAYER_IMAGE
from tests.rig.host import Host, wait_until
from tests.rig.image import LOGICAL_GPUS, start_equipped_rig
from tests.rig.owner import Owner

pytestmark = [pytest.mark.engine, pytest.mark.root, pytest.mark.rig, pytest.mark.whole]
ROOT = Path(__file__).parents[2]
READY_S = 400.0
LAUNCH = (
    (ROOT / "configs" / "deepseek-r1-70b.yaml")
    .read_text()
    .replace("gpus_per_node: 8", f"gpus_per_node: {LOGICAL_GPUS}")
    .replace("parallel_size: 4", "parallel_size: 2")
)


def find_command(head: Host, *, is_head: bool) -> str:
    """The page's command for the head or for another machine, with the rig's GPUs, and as a rehearsal."""
    page = (ROOT / "docs" / "keep-serving.md").read_text()
    (command,) = re.findall(r"```\n(docker run -d --name raylaunch .*?)\n```", page, re.S)
    (joining,) = re.findall(r"machines run `(ray start --address=HEAD:6379 .*?)`", page)
    if not is_head:
        command = re.sub(r"bash -c '.*'", joining.replace("HEAD", head.address), command)
    command = command.replace("serve /data/launch.yaml", "serve /data/launch.yaml --rehearse")
    assert LAYER_IMAGE in command
    return command.replace("--num-gpus=8", f"--num-gpus={LOGICAL_GPUS}")


def answers(head: Host) -> bool:
    """Whether a completion comes back."""
    body = '{"model": "unsloth/DeepSeek-R1-Distill-Llama-70B", "prompt": "Hello", "max_tokens": 2}'
    ask = f"curl -s -m 20 http://127.0.0.1:8080/v1/completions -H 'Content-Type: application/json' -d '{body}'"
    return '"finish_reason"' in head.run(ask, check=False).stdout


def test_service_is_back_after_a_power_cut_of_the_head(tmp_path: Path) -> None:
    """Two hosts, two ranks on each. Needs root, docker, sshd and iproute2; five minutes."""
    with start_equipped_rig("reboot") as rig:
        laptop = Owner.of(rig, tmp_path)
        laptop.up()  # for the image
        laptop.down()
        head, worker = rig.head, rig.workers[0]
        head.write("/data/launch.yaml", LAUNCH)
        head.run(find_command(head, is_head=True))
        worker.run(find_command(head, is_head=False))
        began = time.monotonic()
        wait_until(lambda: answers(head), "the service", READY_S)
        first_s = time.monotonic() - began

        cut = time.monotonic()
        rig.reboot(head)
        try:
            wait_until(lambda: answers(head), "the service after the power cut", READY_S)
        finally:
            print(head.run("docker ps -a; docker logs --tail 60 raylaunch 2>&1", check=False).stdout)
        print(f"ready {first_s:.0f} s after docker run; again {time.monotonic() - cut:.0f} s after the power cut")
        assert worker.run("docker ps -q").stdout.strip()
        head.run("docker stop raylaunch", timeout_s=120)
        assert head.run("docker inspect -f '{{.State.ExitCode}}' raylaunch").stdout.strip() == "0"
