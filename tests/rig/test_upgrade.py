"""Another image for a whole cluster, and back; `explain --cluster` over its hosts. Needs root, docker and sshd."""

import json
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path

import pytest
import yaml

from raylaunch.base.processes import wait_until
from raylaunch.config import cluster_file
from raylaunch.provision.template import LAYER_IMAGE
from tests.rig.host import Host
from tests.rig.host import wait_until as host_wait_until
from tests.rig.image import start_equipped_rig
from tests.rig.owner import CONTAINER, Owner
from tests.rig.service_checks import READY_DEADLINE_S, is_ready

pytestmark = [
    *(pytest.mark.engine, pytest.mark.root, pytest.mark.rig, pytest.mark.whole, pytest.mark.timeout(1800)),
    pytest.mark.alone,  # engines are measured against each other
]
LAUNCH = """\
model: {{repo: rig/model, path: /data/model}}
cluster: {{nodes: 1, gpus_per_node: 1, wait_s: 60}}
engine: {{tensor_parallel_size: 1, dtype: float32, max_num_seqs: {seqs}}}
server: {{host: 0.0.0.0, port: 8080}}
"""
DYING_ACTOR = """\
import os
@ray.remote
class Dying:
    def die(self):
        os.kill(os.getpid(), 9)
actor = Dying.options(resources={{"node:{address}": 0.001}}).remote()
try:
    ray.get(actor.die.remote())
except Exception as error:
    print(type(error).__name__)
"""
AHEAD_S = 90.0
SAME = "ENV RIG=next"
BROKEN = (
    "RUN echo 'raise ImportError(\"rig\")' "
    ">$(python3 -c 'import importlib.util as u; print(u.find_spec(\"vllm\").origin)')"
)
OTHER_WEIGHTS = (
    "RUN sed -i 's/random.Random(seed)/random.Random(seed + 7)/' "
    "$(python3 -c 'import raylaunch.engine.rehearsal.standin_model as m; print(m.__file__)')"
)


SLOWER = (
    r"RUN printf '%s\n' 'import time' 'execute = GPUModelRunner.execute_model' 'def wait(*a, **k):' ' time.sleep(0.1)' "
    "' return execute(*a, **k)' 'GPUModelRunner.execute_model = wait' >>$(python3 -c 'import importlib.util as u; "
    'print(u.find_spec("vllm").submodule_search_locations[0])\')/v1/worker/gpu_model_runner.py'
)


def write_launch(laptop: Owner, name: str, *, seqs: int = 16) -> Path:
    path = laptop.cluster_file.parent / f"{name}.yaml"
    path.write_text(LAUNCH.format(seqs=seqs))
    return path


def build_image(laptop: Owner, name: str, change: str) -> None:
    """On every host, from the image of `up`."""
    for host in laptop.rig.hosts:
        host.run("mkdir -p /tmp/next")
        host.write("/tmp/next/Dockerfile", f"FROM {LAYER_IMAGE}\n{change}\n")
        host.run(f"docker build --quiet --network=host --tag {name} /tmp/next", timeout_s=300)


def find_running_images(laptop: Owner) -> set[str]:
    inspect = f"docker inspect -f '{{{{.Config.Image}}}}' {CONTAINER}"
    return {host.run(inspect).stdout.strip() for host in laptop.rig.hosts}


@contextmanager
def replace_program(host: Host, name: str, script: str) -> Iterator[None]:
    """Run a shell script in the place of a program, which it finds as NAME-real."""
    host.run(f"mv /usr/bin/{name} /usr/bin/{name}-real")
    host.write(f"/usr/bin/{name}", f"#!/bin/sh\n{script}\n", mode="755")
    try:
        yield
    finally:
        host.run(f"mv /usr/bin/{name}-real /usr/bin/{name}")


@pytest.fixture
def own_kernels(laptop: Owner) -> Iterator[None]:
    """The worker's clock is ahead, and no host has a line in its kernel's log: they share this machine's kernel."""
    with ExitStack() as stack:
        for host in laptop.rig.hosts:
            stack.enter_context(replace_program(host, "dmesg", "echo"))
        ahead = f'exec date-real -d "{AHEAD_S} seconds" "$@"'
        stack.enter_context(replace_program(laptop.rig.workers[0], "date", ahead))
        yield


@pytest.fixture(scope="module")
def laptop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Owner]:
    """Two hosts that are up, with two GPUs each."""
    with start_equipped_rig("upgrade") as rig:
        owner = Owner.of(rig, tmp_path_factory.mktemp("upgrade"))
        owner.up()
        yield owner
        owner.must("down", str(owner.cluster_file), "--yes")
        assert owner.list_traces() == []


@pytest.fixture
def served(laptop: Owner) -> Path:
    """The launch that the cluster serves, as a rehearsal; from one test to the next."""
    launch = write_launch(laptop, "launch")
    if not is_ready(laptop):
        on = ("--cluster", str(laptop.cluster_file))
        laptop.must("serve", str(launch), "--rehearse", "--detach", *on)
        assert wait_until(lambda: is_ready(laptop), READY_DEADLINE_S), laptop.run("logs", *on).stdout
    return launch


def upgrade(laptop: Owner, launch: Path, to: str, *more: str) -> tuple[int, str]:
    on = ("--cluster", str(laptop.cluster_file))
    done = laptop.run("upgrade", str(launch), "--to", to, *on, "--yes", "--measure-s=8", *more, timeout_s=900)
    return done.returncode, done.stdout + done.stderr


def read_verdicts(laptop: Owner) -> list[bool]:
    reports = sorted((laptop.home / ".raylaunch" / "upgrades").glob("*/verdict.json"))
    return [json.loads(report.read_text())["kept"] for report in reports]


def read_slots(laptop: Owner) -> int:
    """max_num_seqs of the launch that is served now, by the service's own record."""
    status = json.loads(laptop.must("status", "--json", "--cluster", str(laptop.cluster_file)).stdout)
    kept = yaml.safe_load(laptop.rig.head.run(f"docker exec {CONTAINER} cat {status['launch_file']}").stdout)
    return int(kept["engine"]["max_num_seqs"])


def ask(laptop: Owner) -> str:
    """With the key that this laptop has kept."""
    return laptop.must("ask", "hello", "--max-tokens", "4", "--cluster", str(laptop.cluster_file)).stdout.strip()


def test_an_image_that_no_host_has_changes_nothing(laptop: Owner, served: Path) -> None:
    status, text = upgrade(laptop, served, "rig/nothing:1")
    assert (status, "rig/nothing:1 is not there" in text) == (1, True), text
    assert ask(laptop)


def kill_ray(host: Host) -> None:
    """End Ray in the container, which stays."""
    listed = host.run(f"docker top {CONTAINER} -eo pid,comm").stdout.splitlines()
    pids = [line.split()[0] for line in listed if line.split()[1] in ("raylet", "gcs_server")]
    assert pids, listed
    host.run(f"kill -9 {' '.join(pids)}")


def kill_container(host: Host) -> None:
    """As a reboot ends it, and docker removes it."""
    host.run(f"docker kill {CONTAINER}")
    host_wait_until(lambda: not host.run("docker ps --all --quiet").stdout, f"{host.name}: the container's end")


@pytest.mark.usefixtures("own_kernels", "served")
def test_a_failure_is_explained_from_all_hosts(laptop: Owner) -> None:
    """Nothing while all is well; then a process of Ray's that was killed on the worker: found while Ray runs, when it
    has ended on both hosts, and when docker has removed their containers. The cluster comes up again beside the logs.
    """
    on = ("--cluster", str(laptop.cluster_file))
    healthy = laptop.run("explain", "--json", *on)
    assert (healthy.returncode, json.loads(healthy.stdout)["causes"]) == (1, []), healthy.stdout
    head, worker = (host.address for host in laptop.rig.hosts)
    before = time.time()
    assert "ActorDiedError" in laptop.in_head(DYING_ACTOR.format(address=worker))
    after = time.time()
    for end in (lambda _host: None, kill_ray, kill_container):
        for host in laptop.rig.hosts:
            end(host)
        explained = laptop.run("explain", "--json", *on)
        causes = {cause["key"]: cause for cause in json.loads(explained.stdout)["causes"]}
        assert "worker_killed" in causes, explained.stdout
        assert {place["host"] for place in causes["worker_killed"]["where"]} == {worker}, explained.stdout
        lines = [
            line
            for line in causes["worker_killed"]["evidence"]
            if re.fullmatch(f"{worker}:.*/event_RAYLET.log", line["file"])
        ]
        moments = [datetime.fromisoformat(line["at"]).timestamp() + AHEAD_S for line in lines]
        assert moments, explained.stdout
        assert all(before - 5 < moment < after + 5 for moment in moments), (before, after, lines)
        assert f"{worker}: its clock is " in explained.stderr
        assert f"fetching the logs of {head}, {worker}" in explained.stderr
    assert any(re.search("docker events", line["file"]) for cause in causes.values() for line in cause["evidence"])
    laptop.up()
    for host in laptop.rig.hosts:
        kept = host.run(f"docker exec {CONTAINER} sh -c 'ls -d /tmp/ray/session_2*'").stdout.split()
        assert len(kept) == 2, kept


def test_an_image_that_serves_as_well_stays_until_the_rollback(laptop: Owner, served: Path) -> None:
    build_image(laptop, "rig/next:1", SAME)
    status, text = upgrade(laptop, served, "rig/next:1")
    assert status == 0, text
    assert f"image: {LAYER_IMAGE} -> rig/next:1" in text
    assert find_running_images(laptop) == {"rig/next:1"}
    assert cluster_file.load(laptop.cluster_file).image == "rig/next:1"
    assert read_verdicts(laptop)[-1:] == [True]
    assert ask(laptop)
    laptop.must("rollback", "--cluster", str(laptop.cluster_file), timeout_s=600)
    assert find_running_images(laptop) == {LAYER_IMAGE} == {cluster_file.load(laptop.cluster_file).image}
    assert ask(laptop)


@pytest.mark.parametrize(
    ("name", "change", "why"),
    [
        ("rig/broken:1", BROKEN, "rig/broken:1 does not serve"),
        ("rig/other:1", OTHER_WEIGHTS, "not kept: the old answers are less likely"),
        ("rig/slower:1", SLOWER, "not kept: .*(throughput|first token, median) went from"),
    ],
    ids=["broken", "other", "slower"],
)
def test_an_image_that_fails_gives_way_to_the_old_one(
    laptop: Owner, served: Path, name: str, change: str, why: str
) -> None:
    """One in which vLLM does not start, one that answers otherwise, and one whose every step takes 0.1 s longer."""
    before = find_running_images(laptop)
    build_image(laptop, name, change)
    status, text = upgrade(laptop, served, name)
    assert (status, bool(re.search(why, text))) == (1, True), text
    assert find_running_images(laptop) == before == {cluster_file.load(laptop.cluster_file).image}
    assert ask(laptop)
    assert read_verdicts(laptop)[-1:] == [False]
    *_, reports = sorted((laptop.home / ".raylaunch" / "upgrades").iterdir())
    assert (reports / "before.json").exists()
    assert (reports / "after.json").exists() == (change != BROKEN)


def test_another_launch_stays_until_the_rollback(laptop: Owner, served: Path) -> None:
    """From the laptop, as an exchange of the launch alone: one that is slower gives way, one that is not stays."""
    status, text = upgrade(laptop, served, str(write_launch(laptop, "slow", seqs=1)), "--at-once=8")
    assert (status, "throughput went from" in text or "first token, median went from" in text) == (1, True), text
    assert read_slots(laptop) == 16
    status, text = upgrade(laptop, served, str(write_launch(laptop, "new", seqs=17)))
    assert status == 0, text
    assert "engine.max_num_seqs: 16 -> 17" in text
    assert read_slots(laptop) == 17
    assert read_verdicts(laptop)[-2:] == [False, True]
    laptop.must("rollback", "--cluster", str(laptop.cluster_file), timeout_s=600)
    assert read_slots(laptop) == 16
    assert ask(laptop)
