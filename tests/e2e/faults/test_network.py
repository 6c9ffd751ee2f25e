"""A node's network is cut, for ten seconds and for good: two hosts in namespaces, struck by their cable."""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rig.host import wait_until
from tests.rig.rig import Rig, start_rig
from tests.rig.test_by_hand import SERVE, type_on

from . import table
from .alone import GIVE_UP_S
from .clients import Clients
from .stage import PROGRESS_LIMIT_S
from .test_faults import SLACK_S

pytestmark = [
    pytest.mark.engine,
    pytest.mark.rig,
    pytest.mark.root,
    pytest.mark.faults,
    pytest.mark.alone,
    pytest.mark.whole,
]
ROOT = Path(__file__).parents[3]
MODEL = "unsloth/DeepSeek-R1-Distill-Llama-70B"
KEEP = f"--set keep.progress_limit_s={PROGRESS_LIMIT_S} --set keep.canary_s=5"


@pytest.fixture
def bare_hosts(tmp_path: Path) -> Iterator[Rig]:
    with start_rig(tmp_path / "hosts", with_docker=False, shared=(ROOT, Path(sys.base_prefix))) as rig:
        yield rig


@pytest.mark.timeout(1200)
def test_a_cable_out_for_ten_seconds_and_for_good(bare_hosts: Rig) -> None:
    """Clients get an error within the progress limit; a node that comes back is used, one that stays away is named."""
    head, worker = bare_hosts.head, bare_hosts.workers[0]
    join = f"ray start --address={head.address}:6379 --num-gpus=2"
    type_on(head, "ray start --head --port=6379 --num-gpus=2")
    type_on(worker, join)
    type_on(head, f"({SERVE} {KEEP}; echo exit $?) </dev/null >/tmp/serve.txt 2>&1 & sleep 0.1")

    def count(words: str) -> int:
        text = head.run("cat /tmp/serve.txt").stdout
        assert "exit" not in text, text
        return text.count(words)

    def in_flight() -> Clients:
        clients = Clients(f"http://{head.address}:8080", MODEL)
        clients.start(streaming=2, plain=1)
        return clients

    notes: list[str] = []

    def read_note() -> str:
        note = str(json.loads(type_on(head, "raylaunch status --json 2>/dev/null"))["note"])
        if note not in notes[-1:]:
            notes.append(note)
            print(f"{time.strftime('%X')} status: {note}", flush=True)
        return note

    began = time.monotonic()
    wait_until(lambda: count("ends it") == 1, "the service", 400)
    first_s = time.monotonic() - began
    clients = in_flight()
    cut = time.monotonic()
    with worker.cut_off():
        last_s = clients.wait() - cut
        time.sleep(max(0.0, 10.0 - (time.monotonic() - cut)))
    describe = [f"a node's cable out for 10 s, two hosts: the last client waited {last_s:.1f} s"]
    assert last_s < PROGRESS_LIMIT_S + 5.0 + SLACK_S
    wait_until(lambda: count("again at http") == 1, "serving again", 400)
    describe.append(f"ready again {time.monotonic() - cut:.0f} s after the cut (first start: {first_s:.0f} s)")

    clients = in_flight()
    cut = time.monotonic()
    with worker.cut_off():
        last_s = clients.wait() - cut
        describe.append(f"out for good: the last client waited {last_s:.1f} s")
        assert last_s < PROGRESS_LIMIT_S + 5.0 + SLACK_S
        wait_until(lambda: f"node {worker.address} gone since" in read_note(), "the node's name", 300)
        named_s = time.monotonic() - cut
        describe.append(f"`raylaunch status` named the node after {named_s:.0f} s")
    back = time.monotonic()
    type_on(worker, f"ray stop --force; {join}")  # what systemd does for it
    wait_until(lambda: count("again at http") == 2, "serving again", 400)
    describe.append(f"ready again {time.monotonic() - back:.0f} s after the node had come back")
    table.Book(give_up_s=GIVE_UP_S).note("network", f"{'; '.join(describe)}.".capitalize())
    assert "stopped" in type_on(head, "raylaunch stop")
    assert "RayWorkerProc" not in worker.run("ps ax").stdout
