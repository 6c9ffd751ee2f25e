"""How many API servers serve an engine, what they share, and how they are forked."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from raylaunch.base.errors import LaunchFileError
from raylaunch.base.fork_link import ForkLink
from raylaunch.base.ipc import ParentLink
from raylaunch.base.processes import wait_until
from raylaunch.engine import api_servers, engine_link, metrics_folder
from raylaunch.engine.load_table import LoadTable
from raylaunch.engine.messages import ApiServers, Drain, SocketShare
from tests.config import launches


@pytest.mark.parametrize(
    ("sets", "is_real", "cores", "environ", "count"),
    [
        ((), True, 32, {}, 4),
        ((), True, 13, {}, 1),  # 8 ranks here, EngineCore, supervisor: three cores are left
        ((), True, 14, {}, 4),
        ((), False, 64, {}, 1),
        (("engine.max_num_seqs=64",), True, 32, {}, 1),
        (("server.api_server_count=2",), False, 2, {}, 2),
        (("server.api_server_count=auto",), True, 32, {"VLLM_ENABLE_RESPONSES_API_STORE": "1"}, 1),
        (("server.api_server_count=1",), True, 32, {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "true"}, 1),
    ],
)
def test_count(
    tmp_path: Path, sets: tuple[str, ...], is_real: bool, cores: int, environ: dict[str, str], count: int
) -> None:
    launch = launches.load(launches.write(tmp_path), *sets)
    assert api_servers.choose_count(launch, is_real=is_real, cores=cores, environ=environ) == count


def test_what_one_process_alone_would_know_is_refused(tmp_path: Path) -> None:
    """With its place in the file, and what to do."""
    launch = launches.load(launches.write(tmp_path), "server.api_server_count=4")
    environ = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}
    with pytest.raises(LaunchFileError, match=r"server.api_server_count.*4 API servers.*LoRA adapter") as caught:
        api_servers.choose_count(launch, is_real=True, cores=64, environ=environ)
    assert caught.value.fix == "set server.api_server_count: 1, or unset VLLM_ALLOW_RUNTIME_LORA_UPDATING"


def test_replicas_that_a_request_could_set_apart_are_refused(tmp_path: Path) -> None:
    sets = ("cluster.replicas=2", "engine.pipeline_parallel_size=2")
    with pytest.raises(LaunchFileError, match=r"cluster.replicas.*2 replicas, but VLLM_SERVER_DEV_MODE is set"):
        api_servers.choose_count(
            launches.load(launches.write(tmp_path), *sets),
            is_real=True,
            cores=64,
            environ={"VLLM_SERVER_DEV_MODE": "1"},
        )


@pytest.mark.parametrize("value", ["0", "17", "four", "true", "1.5"])
def test_other_counts_are_refused(tmp_path: Path, value: str) -> None:
    (problem,) = launches.problems_of(launches.write(tmp_path), f"server.api_server_count={value}")
    assert "server.api_server_count" in problem


def serve_alone(client: object) -> None:
    """vLLM's build_and_serve before it had peer_loads."""


def serve_shared(client: object, peer_loads: object = None) -> None:
    """The same of 0.32."""


@pytest.mark.engine  # it imports vLLM
@pytest.mark.parametrize(
    ("serve", "share", "count", "note"),
    [
        (serve_shared, SocketShare(0, 4), 4, ""),
        (serve_alone, SocketShare(0, 4), 1, "cannot serve one socket with 4 API servers: one serves"),
        (serve_alone, SocketShare(0, 1, private_fd=9), 1, "may be shared unevenly"),
        (serve_alone, SocketShare(0, 1), 1, ""),
    ],
)
def test_a_vllm_without_peer_loads_serves_with_one(
    serve: Callable[..., None], share: SocketShare, count: int, note: str
) -> None:
    """And `serve` prints so, and that replicas are not balanced."""
    found, said = engine_link.count_servers(share, serve)
    assert (found, bool(said)) == (count, bool(note))
    assert note in said


@pytest.mark.engine
def test_a_vllm_without_shared_listeners_serves_with_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.v1.engine import utils

    monkeypatch.delattr(utils, "bind_engine_zmq_listeners")
    assert engine_link.count_servers(SocketShare(0, 2), serve_shared)[0] == 1


def test_load_table_is_shared() -> None:
    """Through its descriptor, as a child inherits it; a cleared slot is never the least loaded."""
    table = LoadTable.create(3)
    other = LoadTable.open(table.descriptor)
    other.loads[1] = 7
    assert table.loads.tolist() == [2**31 - 1, 7, 2**31 - 1]
    table.clear(0, 3)
    assert min(other.loads) == 2**31 - 1
    table.close()


def test_metrics_folders_go_by_their_marks() -> None:
    mark = f"test-{os.getpid()}"
    first, second = metrics_folder.make(f"{mark}-1"), metrics_folder.make(f"{mark}-2")
    (first / "counter_1.db").write_bytes(b"1")
    metrics_folder.remove(f"{mark}-1")
    assert (first.exists(), second.exists()) == (False, True)
    metrics_folder.remove(f"{mark}-*")
    assert not second.exists()


def answer(parent: ParentLink) -> None:
    parent.wait_for(Drain)
    parent.send(ApiServers((os.getpid(),)))
    while not parent.is_closed:
        parent.receive(None)


def test_forked_children_answer_and_end_with_their_parent() -> None:
    """Each by itself: none holds a pipe of another open."""
    first = ForkLink.start(answer, name="first", others=())
    second = ForkLink.start(answer, name="second", others=(first,))
    for child in (first, second):
        assert child.send(Drain())
        assert wait_until(lambda child=child: bool(child.receive()), 20)  # type: ignore[misc]
        assert child.last(ApiServers) == ApiServers((child.pid,))
    first.close()
    assert wait_until(lambda: not first.is_alive(), 20)
    assert second.is_alive()
    second.kill()
    assert wait_until(lambda: not second.is_alive(), 20)
    assert second.receive() == []
    second.close()
