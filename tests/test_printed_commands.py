"""Commands that messages print can be pasted: a path with spaces, a quote, `$` and Chinese letters stays one word."""

import json
import shlex
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from raylaunch.base.errors import ClusterFileError, LaunchFileError, LogError, RaylaunchError, WeightsError
from raylaunch.base.viewpoint import Viewpoint
from raylaunch.cli import main
from raylaunch.config import cluster_file, launch_file
from raylaunch.config.cluster_file import ClusterFile
from raylaunch.explain import read
from raylaunch.node.model_folder import FolderFacts, FolderFile, FolderProblem, ProblemKind
from raylaunch.preflight.model_rules import judge_model
from raylaunch.preflight.requirements import CheckRequest
from raylaunch.provision import host_logs, image, ray_state, template
from raylaunch.provision.doctor.access_rules import judge_access
from raylaunch.provision.doctor.gather import ClusterFacts
from raylaunch.provision.host_shell import HostShell
from raylaunch.provision.ssh import SshFailure
from raylaunch.serve.announcement import list_next_steps
from raylaunch.weights import store, working_folder
from tests.preflight.conftest import make_facts

NAME = "my model's $HOME 模型"
PATH = f"/data/{NAME}"
HOSTS = ("10.0.0.1", "10.0.0.2")
HOST = HOSTS[0]


def assert_pastes(text: str, *words: str) -> None:
    """`text` reads "... COMMAND ...": from the command's first word, the shell finds the others in this order."""
    lexer = shlex.shlex(text[text.index(words[0]) :], posix=True, punctuation_chars="`|;&<>()")
    lexer.whitespace_split, lexer.commenters = True, ""
    for word in words:
        assert any(found == word for found in lexer), (word, text)


def fix_of(kind: type[RaylaunchError], fail: Callable[[], object]) -> str:
    with pytest.raises(kind) as caught:
        fail()
    return caught.value.fix or ""


def load_cluster(folder: Path) -> ClusterFile:
    """A cluster file and a key with this name."""
    plan = template.ClusterPlan(hosts=HOSTS, user="mia", name="test", key=str(folder / NAME))
    template.write(plan, folder / f"{NAME}.yaml")
    return cluster_file.load(folder / f"{NAME}.yaml")


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], HostShell]:
    """The hosts of a cluster behind an ssh that ends at once with a given status."""

    def make(status: int) -> HostShell:
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin" / "ssh").write_text(f"#!/bin/sh\nexit {status}\n")
        (tmp_path / "bin" / "ssh").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
        return HostShell.of(load_cluster(tmp_path))

    return make


REQUEST = CheckRequest(None, PATH, 8, 4, 4)
SOUND = make_facts(1).model
OTHER = replace(SOUND, path=PATH, files=(FolderFile("config.json", 1, "other"), *SOUND.files[1:]))


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (FolderFacts(PATH), ("rsync", f"{HOST}:{PATH}/", f"{PATH}/")),
        (OTHER, ("rsync", "--delete", f"{HOST}:{PATH}/", f"{PATH}/")),
        (replace(OTHER, error=FolderProblem(ProblemKind.DENIED, "", "is closed")), ("chmod", PATH)),
        (replace(OTHER, broken=(FolderProblem(ProblemKind.LFS_POINTER, "a", "a is a pointer"),)), ("git", PATH)),
    ],
)
def test_a_fix_for_a_models_folder(model: FolderFacts, words: tuple[str, ...]) -> None:
    nodes = [make_facts(number, model=replace(SOUND, path=PATH)) for number in (1, 2)]
    (found,) = judge_model([*nodes, make_facts(3, model=model)], REQUEST)
    assert_pastes(found.fix, *words)


def test_a_fix_of_the_models_store(tmp_path: Path) -> None:
    folder = tmp_path / NAME
    folder.mkdir()
    (folder / "mine").touch()
    assert_pastes(fix_of(WeightsError, lambda: list(store.remove(folder))), "rm", str(folder))
    assert_pastes(fix_of(WeightsError, lambda: working_folder.claim(folder, "x")), "mv", str(folder), f"{folder}.mine")
    assert_pastes(store.inspect(folder / "mine" / "below").fix, "chmod", str(folder / "mine" / "below"))


def test_a_model_that_no_hub_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "launch.yaml").write_text(f'model: {{path: "{PATH}"}}\n')
    with pytest.raises(SystemExit):
        main.main(["weights", "pull", str(tmp_path / "launch.yaml")])
    assert_pastes(capsys.readouterr().err, "rsync", f"{PATH}/", f"NODE:{PATH}/")


def test_a_launch_file(tmp_path: Path) -> None:
    path = tmp_path / f"{NAME}.yaml"
    path.write_text("model: {repo: owner/name}\n")
    assert_pastes(launch_file.load(path, sets=(), environ={}).pull_command, "raylaunch", "pull", str(path))
    path.write_text("model: 1\n")
    fix = fix_of(LaunchFileError, lambda: launch_file.load(path, sets=(), environ={}))
    assert_pastes(fix, "raylaunch", "config", str(path))


def test_a_log(tmp_path: Path) -> None:
    assert_pastes(fix_of(LogError, lambda: read.open_file(tmp_path / NAME)), "ls", str(tmp_path / NAME))


def test_a_cluster_file(tmp_path: Path) -> None:
    cluster = load_cluster(tmp_path)
    view = Viewpoint(str(cluster.path), HOST)
    assert_pastes(view.up_command, "raylaunch", "up", str(cluster.path))
    assert_pastes(view.command("status"), "raylaunch", "status", "--cluster", str(cluster.path))
    cluster.path.write_text("cluster_name: test\n")
    fix = fix_of(ClusterFileError, lambda: cluster_file.load(cluster.path))
    assert_pastes(fix, "raylaunch", "doctor", str(cluster.path))


def test_hosts_that_cannot_be_reached(shell: Callable[[int], HostShell]) -> None:
    cluster = shell(255).cluster

    def fetch() -> None:
        with host_logs.fetch_logs(cluster):
            pass

    assert_pastes(fix_of(RaylaunchError, fetch), "raylaunch", "doctor", str(cluster.path))


def test_an_image_that_cannot_be_loaded(shell: Callable[[int], HostShell], tmp_path: Path) -> None:
    archive = tmp_path / f"{NAME}.tar.gz"
    archive.touch()
    made = shell(1)
    assert_pastes(
        fix_of(RaylaunchError, lambda: image.load_archive(made, archive, HOSTS)), "docker", "gzip", ">", archive.name
    )


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        ("missing", ("ssh-keygen", "-f", "KEY")),
        ("missing", ("ssh-copy-id", "-i", "KEY.pub")),
        ("open", ("chmod", "KEY")),
        ("broken", ("ssh-keygen", "KEY")),
    ],
)
def test_a_private_key(tmp_path: Path, problem: str, words: tuple[str, ...]) -> None:
    cluster = load_cluster(tmp_path)
    verdict = next(iter(judge_access(ClusterFacts(problem, (), {}, {}, 0.0), cluster)))
    assert_pastes(verdict.fix, *(word.replace("KEY", str(tmp_path / NAME)) for word in words))


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("key", ("ssh-copy-id", "-i", "KEY.pub")),
        ("key file", ("chmod", "KEY", "ssh-keygen", "KEY")),
        ("slow", ("ssh", "-i", "KEY", f"mia@{HOST}", "uptime")),
    ],
)
def test_a_key_that_a_host_refuses(tmp_path: Path, kind: str, words: tuple[str, ...]) -> None:
    cluster = load_cluster(tmp_path)
    facts = ClusterFacts("", (), {HOST: SshFailure(kind, "no")}, {}, 0.0)
    fix = next(verdict.fix for verdict in judge_access(facts, cluster) if verdict.host == HOST)
    assert_pastes(fix, *(word.replace("KEY", str(tmp_path / NAME)) for word in words))


def test_rays_own_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Ray's folder for temporary files cannot be written."""
    monkeypatch.setenv("RAYLAUNCH_HOME", str(tmp_path / NAME))
    (tmp_path / "file").touch()
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "file"))
    ray_state.publish(load_cluster(tmp_path))
    words = shlex.split(capsys.readouterr().err.partition(" here:")[0].replace("Ray's", ""))
    assert words[-1].startswith(f"RAY_TMPDIR={tmp_path / NAME}/")


def test_the_first_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Model and key file are one word each; a proxy of the environment is passed by for our own address alone."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "example.com")
    launch = launch_file.load(None, sets=(f"engine.served_model_name={NAME}",), environ={})
    view = Viewpoint("cluster.yaml", HOST, key_file=PATH)

    def curl_to(host: str) -> list[str]:
        """The words that curl gets from a shell."""
        line = next(line for line in list_next_steps(launch, f"http://{host}:8080", view) if "curl" in line)
        script = f"""curl() {{ printf '%s\\n' "$@"; }}; cat() {{ printf %s "$1"; }}; {line}"""
        return subprocess.run(["bash", "-c", script], check=True, capture_output=True, text=True).stdout.splitlines()

    words = curl_to(HOST)
    assert "--noproxy" not in words
    assert f"Authorization: Bearer {PATH}" in words
    assert json.loads(words[-1])["model"] == NAME
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    words = curl_to(HOST)
    assert words[words.index("--noproxy") + 1] == "*"
    assert "--noproxy" not in curl_to("8.8.8.8")
