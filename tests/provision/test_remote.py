"""What a service on a cluster gets, before any host is contacted: its key, and what Ray's launcher reads."""

import io
import json
import os
import shlex
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from raylaunch.base.errors import ClusterError, ServiceError
from raylaunch.base.viewpoint import Viewpoint
from raylaunch.cli import main
from raylaunch.config import cluster_file, launch_file
from raylaunch.config import launch as config
from raylaunch.config.cluster_file import ClusterFile
from raylaunch.provision import artifacts, jobs, remote, remote_launch, template
from raylaunch.provision.ray_up import make_config
from raylaunch.serve import logs
from tests.provision.conftest import FakeSsh

LAUNCH = "model: {path: /data/model}\nserver: {port: 8123}\n"


@pytest.fixture
def cluster(tmp_path: Path) -> ClusterFile:
    plan = template.ClusterPlan(hosts=("10.0.0.1", "10.0.0.2"), user="root", name="test")
    template.write(plan, tmp_path / "cluster.yaml")
    return cluster_file.load(tmp_path / "cluster.yaml")


def load(tmp_path: Path, *sets: str) -> config.LaunchConfig:
    (tmp_path / "launch.yaml").write_text(LAUNCH)
    return launch_file.load(tmp_path / "launch.yaml", sets=sets, environ={})


def test_a_key_is_made_once_and_kept_private(cluster: ClusterFile, tmp_path: Path) -> None:
    """The same for the next launch on that port, another for another port; only its owner can read it."""
    launch = remote.give_key(cluster, load(tmp_path))
    first = launch.api_keys
    assert not artifacts.find_key(cluster, 8123).exists()  # the cluster may not be up
    remote.keep_key(cluster, launch)
    assert remote.give_key(cluster, load(tmp_path)).api_keys == first
    assert remote.give_key(cluster, load(tmp_path, "server.port=8124")).api_keys != first
    path = artifacts.folder_of("test") / "keys" / "8123"
    assert (path.read_text(),) == first
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert remote_launch.read_key(cluster, 8123) == first[0]
    assert remote_launch.read_key(cluster, 9000) is None


def test_hosts_get_what_this_machine_keeps(cluster: ClusterFile) -> None:
    """Token and layer come from raylaunch's own folder, wherever it is; an image file makes the build needless."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    artifacts.write_kit(cluster)
    built, loaded = (json.loads(make_config(cluster, with_build=with_build)) for with_build in (True, False))
    for source in built["file_mounts"].values():
        assert Path(source).is_relative_to(artifacts.folder_of("test"))
        assert Path(source).is_dir()
    assert len(built["initialization_commands"]) == 1
    assert loaded["initialization_commands"] == []
    for document in (built, loaded):
        validate_config(prepare_config(document))
    assert built["docker"] == yaml.safe_load(cluster.path.read_text())["docker"]


def test_log_is_shown_or_reported_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "engine.log").write_text("one\ntwo\n")
    logs.show(tmp_path / "engine.log", follow=False)
    assert capsys.readouterr().out == "one\ntwo\n"
    with pytest.raises(ServiceError, match="does not exist"):
        logs.show(tmp_path / "none.log", follow=False)


def test_a_job_has_a_launch_file_of_its_own(cluster: ClusterFile) -> None:
    """A refused job must not change what the service on that port reads again; its file goes with it."""
    view = remote_launch.viewpoint_of(cluster)
    first, second = (remote.make_entrypoint(job, view, rehearse=True) for job in ("serve-8080-a", "serve-8080-b"))
    assert "raylaunch serve ~/.raylaunch/launches/serve-8080-a.yaml --rehearse; status=$?; " in first
    name = "~/.raylaunch/launches/serve-8080-a"
    assert f"rm -f {name}.yaml {name}.lock.yaml; exit $status" in first
    assert "serve-8080-a" not in second
    locked = remote.make_entrypoint("a", view, rehearse=False, image="vllm:1 sha256:aa")
    assert " 'RAYLAUNCH_IMAGE=vllm:1 sha256:aa' raylaunch serve " in locked


def test_nothing_is_kept_of_a_service_that_was_not_started(
    cluster: ClusterFile, fake_ssh: FakeSsh, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The cluster is not up: the next command, and no API key was announced or kept."""
    fake_ssh.answer("docker exec", stderr="Error: No such container: raylaunch", status=1)
    with pytest.raises(ClusterError, match="test is not up") as caught:
        remote.serve(cluster, load(tmp_path), rehearse=False, detach=False, with_key=True)
    assert caught.value.fix == f"`raylaunch up {cluster.path}`"
    assert not artifacts.find_key(cluster, 8123).exists()
    assert capsys.readouterr().err == ""


def test_verbs_run_with_the_viewpoint_of_this_machine(
    cluster: ClusterFile, fake_ssh: FakeSsh, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_ssh.answer("docker exec", stdout="no incidents\n")
    assert remote.run_verb(cluster, ["incidents"]) == 0
    assert capsys.readouterr().out == "no incidents\n"
    (command,) = fake_ssh.list_commands()
    words = shlex.split(command)
    assert words[words.index("env") + 2 :] == ["raylaunch", "incidents"]
    variable, _, value = words[words.index("env") + 1].partition("=")
    assert Viewpoint.of_this_process({variable: value}) == Viewpoint(str(cluster.path), "10.0.0.1", 2)


def test_the_status_of_the_heads_service_is_read_back(cluster: ClusterFile, fake_ssh: FakeSsh) -> None:
    status = {"url": "http://10.0.0.1:8090", "ready": True, "requests_running": 3, "rehearsal": "cpu", "note": "x"}
    fake_ssh.answer("--port=8090", stdout=json.dumps(status, indent=2), quits=True)
    fake_ssh.answer("docker exec", stderr="error: nothing serves on the head 10.0.0.1\n", status=1, quits=True)
    assert remote.query_status(cluster, 8090) == remote.RemoteStatus(8090, True, 3, True)
    with pytest.raises(ServiceError, match=r"nothing serves on the head 10\.0\.0\.1"):
        remote.query_status(cluster, None)


def test_a_verbs_error_is_read_back() -> None:
    printed = "warning: x\nerror: nothing serves on the head\nwhat to do: start it with `raylaunch serve`\n"
    assert remote_launch.read_error(printed) == ("nothing serves on the head", "start it with `raylaunch serve`")
    assert remote_launch.read_error("Killed") == ("", "")


DOCKER_HERE = 'shift; [ "$1" = -i ] && shift; shift; exec "$@"'
"""Runs what `docker exec` would run in the container."""


@pytest.mark.parametrize(("status", "outlives", "left"), [(0, False, 0), (0, True, 1), (1, True, 0)])
def test_a_verb_runs_there_with_a_launch_of_here(
    cluster: ClusterFile, fake_ssh: FakeSsh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str], add_program: Callable[[str, str], None], status: int, outlives: bool, left: int,
) -> None:  # fmt: skip
    """Its output and status come here; the hub's token holds there and is in no argument; only a served file stays."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_TOKEN", "hf_'secret'")
    (tmp_path / "home").mkdir()
    fake_ssh.answer("docker exec", here=True)
    add_program("docker", DOCKER_HERE)
    add_program("raylaunch", f'cat "$3"; echo "$1 $2 $4 $HF_TOKEN"; stat -c %a "$3" >&2; exit {status}')
    launch = load(tmp_path)
    assert remote_launch.run_with_launch(cluster, launch, ["weights", "pull"], ["--json"], outlives=outlives) == status
    shown = capfd.readouterr()
    assert "path: /data/model" in shown.out
    assert shown.out.endswith("weights pull --json hf_'secret'\n")
    assert shown.err == "600\n"
    assert len([*(tmp_path / "home" / ".raylaunch" / "launches").iterdir()]) == left
    assert not [call for call in fake_ssh.calls if "secret" in " ".join(call.argv)]


def test_weights_on_a_cluster(
    cluster: ClusterFile, fake_ssh: FakeSsh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str], add_program: Callable[[str, str], None],
) -> None:  # fmt: skip
    """The same verb with the same options, its launch merged here; what `rm` would ask is asked here."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    fake_ssh.answer("docker exec", here=True)
    add_program("docker", DOCKER_HERE)
    add_program("raylaunch", 'grep path: "$3"; shift 3; echo "ran: $*"')
    load(tmp_path)
    on = (str(tmp_path / "launch.yaml"), "--set", "model.path=/data/other", "--cluster", str(cluster.path))
    for words, ran in ((["pull", "--verify", "--lanes", "2"], "--verify --lanes 2"), (["rm", "--yes"], "--yes")):
        with pytest.raises(SystemExit) as ended:
            main.main(["weights", *words, *on])
        assert ended.value.code == 0
        assert capfd.readouterr().out == f"  path: /data/other\nran: {ran}\n"
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    calls = len(fake_ssh.calls)
    with pytest.raises(SystemExit) as ended:
        main.main(["weights", "rm", *on])
    assert (ended.value.code, len(fake_ssh.calls)) == (130, calls)


def test_rays_own_lines_are_left_out() -> None:
    line = "2026-11-27 19:00:00,000\tINFO job_manager.py:581 -- Runtime env is setting up.\n"
    entrypoint = "Running entrypoint for job serve-8080: env raylaunch serve launch.yaml; exit $status\n"
    assert jobs._RAYS_LINES.sub("", f"{line}{entrypoint}joined Ray\n") == "joined Ray\n"


def test_logs_of_a_service_that_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The newest, or the one of a port, with a line that nothing serves; none: what to do."""
    monkeypatch.setenv("RAYLAUNCH_HOME", str(tmp_path))
    with pytest.raises(ServiceError, match="nothing serves"):
        logs.find_log(None)
    for at, port in enumerate(("8080", "8090")):
        log = tmp_path / "services" / port / "engine.log"
        log.parent.mkdir(parents=True)
        log.write_text(f"of {port}\n")
        os.utime(log, (at, at))
    with pytest.raises(SystemExit):
        main.main(["logs", "-f"])
    shown = capsys.readouterr()
    assert (shown.out, "the last service on port 8090" in shown.err) == ("of 8090\n", True)
    assert logs.find_log(8080) == (tmp_path / "services" / "8080" / "engine.log", False)
    with pytest.raises(ServiceError, match="on port 9"):
        logs.find_log(9)
    (tmp_path / "services" / "8080" / "engine-1.log").write_text("of replica 1\n")
    with pytest.raises(SystemExit):
        main.main(["logs", "--port=8080", "--replica=1"])
    assert capsys.readouterr().out == "of replica 1\n"
