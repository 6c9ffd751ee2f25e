"""Every command of both READMEs is run, here or by the test named in the table; what needs a rack of GPUs is parsed."""

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from raylaunch.cli import bench, main
from raylaunch.config import cluster_file
from raylaunch.config.launch_file import load

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
REFERENCE = "configs/deepseek-r1-70b.yaml"
DEMO_TEST = "tests/e2e/test_demo.py::test_make_serve_on_a_terminal"
SERVICE_TESTS = "tests/e2e/test_one_service.py"
BENCH_TEST = f"{SERVICE_TESTS}::test_bench_measures_the_service"
BY_HAND_TEST = "tests/rig/test_by_hand.py::test_readme_by_hand_serves_across_two_hosts"
WALK_TEST = "tests/rig/test_walk.py::test_the_path_as_it_is_typed"
BY_CONTAINER_TEST = "tests/rig/test_cluster_life.py::test_readme_by_container"
FAULTS_TEST = "tests/e2e/faults/test_faults.py::test_main_faults"
SWAP_TEST = "tests/e2e/faults/test_swap.py::test_restart_swaps_and_refuses"
WEIGHTS_TEST = "tests/weights/test_cluster.py::test_each_byte_comes_from_the_hub_once"
REHEARSAL_TEST = "tests/e2e/test_rehearsal.py::test_reference_case_rehearses"


def read_commands(file: str) -> list[str]:
    """Commands of a README's shell blocks, without the comments behind them."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", (ROOT / file).read_text(), re.M | re.S)
    lines = [line for block in blocks for line in block.splitlines()]
    return [re.sub(r"\s+# .*$", "", line).strip() for line in lines if line.strip()]


def run(command: str) -> "subprocess.CompletedProcess[str]":
    """Run a command as a reader would: in the repository's folder, with the environment activated."""
    return subprocess.run(
        command, shell=True, cwd=ROOT, env=os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def runs(command: str) -> None:
    done = run(command)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def finds_nothing_serving(command: str) -> None:
    done = run(command)
    assert done.returncode == 1
    assert "raylaunch serve" in done.stderr


def is_parsed_by_bench(command: str) -> None:
    """`bench` takes these arguments, and the cluster file loads."""
    context = bench.run_bench.make_context("run", shlex.split(command)[2:])
    cluster_file.load(ROOT / context.params["cluster"])


def wants_results(command: str) -> None:
    done = run(command)
    assert done.returncode == 1
    assert "cannot read before.json: No such file" in done.stderr


def has_nothing_to_stop(command: str) -> None:
    done = run(command)
    assert done.returncode == 0
    assert "nothing" in done.stderr


def has_no_incidents(command: str) -> None:
    done = run(command)
    assert done.returncode == 0
    assert "no incidents" in done.stderr


def activates(command: str) -> None:
    """`make` makes this very file in .venv; here it is sourced from the environment that runs the tests."""
    assert command == ". .venv/bin/activate"
    assert run(f". {BIN}/activate && command -v raylaunch").returncode == 0


def is_parsed_by_raylaunch(command: str) -> None:
    """raylaunch's own command line takes these arguments, and the launch file loads."""
    _, verb, *arguments = shlex.split(command)
    context = main.cli.commands[verb].make_context(verb, arguments)
    if context.params.get("launch"):
        load(ROOT / context.params["launch"], environ={})


def is_parsed_by_weights(command: str) -> None:
    """A verb of `raylaunch weights` takes these arguments, and the launch file loads."""
    _, _, verb, *arguments = shlex.split(command)
    group = main.cli.commands["weights"]
    assert isinstance(group, click.Group)
    context = group.commands[verb].make_context(verb, arguments)
    load(ROOT / context.params["launch"], environ={})


def is_parsed_by_ray(command: str) -> None:
    from ray.scripts import scripts

    _, verb, *arguments = shlex.split(command)
    start = scripts.cli.commands[verb]
    assert isinstance(start, click.Command)
    start.make_context(verb, arguments)


def is_the_served_request(command: str) -> None:
    """The body is JSON and names the model of the reference case by its path, its port the launch file's."""
    words = shlex.split(command)
    launch = load(ROOT / REFERENCE, environ={})
    assert json.loads(words[words.index("-d") + 1])["model"] == launch.model.path
    assert f":{launch.port}/v1/completions" in command


def names_an_extra(command: str) -> None:
    (extra,) = re.findall(r"\.\[(\w+)\]", command)
    assert f"\n{extra} = [" in (ROOT / "pyproject.toml").read_text()


def names_the_dockerfile(command: str) -> None:
    words = shlex.split(command)
    assert (ROOT / words[words.index("-f") + 1]).is_file()


def runs_ray_in_the_image(command: str) -> None:
    _, image, inside = command.partition(" raylaunch:0.32.0 ")
    assert image
    is_parsed_by_ray(inside)


def runs_raylaunch_in_the_container(command: str) -> None:
    is_parsed_by_raylaunch(command.removeprefix("docker exec -it raylaunch "))


def makes(command: str) -> None:
    """The target exists and its recipe is what the README says; make prints it without running it."""
    done = run(f"{command} --dry-run --what-if=pyproject.toml")
    assert done.returncode == 0, done.stderr
    assert {"make serve": "raylaunch serve", "make test": "pytest"}[command] in done.stdout


def names_debian_packages(command: str) -> None:
    assert (ROOT / "tools" / "find-python").read_text().count("python3-venv")
    assert run("apt-get install --simulate make").returncode == 0


CHECKS: dict[str, tuple[Callable[[str], None], str | None]] = {
    # command: how it is checked here, and the test that runs it completely
    "sudo apt-get install -y make python3-venv": (names_debian_packages, None),
    "make serve": (makes, DEMO_TEST),
    ". .venv/bin/activate": (activates, None),
    'raylaunch ask "What is the capital of France?"': (is_parsed_by_raylaunch, DEMO_TEST),
    "make test": (makes, None),
    "ray start --head --port=6379 --num-gpus=8": (is_parsed_by_ray, BY_HAND_TEST),
    "ray start --address=10.0.0.1:6379 --num-gpus=8": (is_parsed_by_ray, BY_HAND_TEST),
    f"raylaunch serve {REFERENCE}": (is_parsed_by_raylaunch, BY_HAND_TEST),
    'raylaunch ask "你是谁" --max-tokens 2048': (is_parsed_by_raylaunch, REHEARSAL_TEST),
    'curl http://10.0.0.1:8080/v1/completions -H "Content-Type: application/json" -d \'{"model": '
    '"/data/DeepSeek-R1-Distill-Llama-70B", "prompt": "你是谁", "max_tokens": 2048}\'': (
        is_the_served_request,
        REHEARSAL_TEST,
    ),
    f"raylaunch serve {REFERENCE} --rehearse": (is_parsed_by_raylaunch, REHEARSAL_TEST),
    f"raylaunch config {REFERENCE}": (runs, None),
    f"raylaunch config {REFERENCE} --set engine.max_model_len=4096": (runs, None),
    "raylaunch schema": (runs, "tests/config/test_schema.py::test_editors_get_the_shipped_schema"),
    f"RAYLAUNCH_ENGINE__MAX_MODEL_LEN=4096 raylaunch config {REFERENCE} --json": (runs, None),
    f"raylaunch weights pull {REFERENCE}": (is_parsed_by_weights, WEIGHTS_TEST),
    f"raylaunch weights check {REFERENCE}": (is_parsed_by_weights, WEIGHTS_TEST),
    f"raylaunch weights rm {REFERENCE}": (is_parsed_by_weights, WEIGHTS_TEST),
    "raylaunch status": (finds_nothing_serving, DEMO_TEST),
    "raylaunch status --json": (finds_nothing_serving, DEMO_TEST),
    "raylaunch incidents": (has_no_incidents, FAULTS_TEST),
    f"raylaunch restart {REFERENCE}": (is_parsed_by_raylaunch, SWAP_TEST),
    f"raylaunch serve {REFERENCE} --systemd": (runs, None),
    "raylaunch stop": (has_nothing_to_stop, None),
    "raylaunch top": (is_parsed_by_raylaunch, f"{SERVICE_TESTS}::test_ctrl_c_leaves_the_view_and_not_the_service"),
    "raylaunch top --cluster cluster.yaml": (is_parsed_by_raylaunch, WALK_TEST),
    "raylaunch top --once --json": (runs, f"{SERVICE_TESTS}::test_once_tells_every_rank_and_leaves_nothing"),
    "raylaunch --version": (runs, None),
    "raylaunch bench --concurrency 500": (finds_nothing_serving, BENCH_TEST),
    "raylaunch bench --concurrency 500 --cluster configs/two-node.yaml": (is_parsed_by_bench, None),
    "ray submit configs/two-node.yaml benchmarks/job.py --concurrency 500": (
        is_parsed_by_ray,
        WALK_TEST,
    ),
    "raylaunch bench compare before.json after.json": (
        wants_results,
        "tests/bench/test_compare.py::test_command",
    ),
    "raylaunch bench --concurrency 1,8,64,500 --slo ttft=2s,tpot=50ms": (finds_nothing_serving, BENCH_TEST),
    "raylaunch init cluster.yaml --hosts 10.0.0.1,10.0.0.2 --user ubuntu": (
        is_parsed_by_raylaunch,
        WALK_TEST,
    ),
    "raylaunch doctor cluster.yaml": (
        is_parsed_by_raylaunch,
        WALK_TEST,
    ),
    "raylaunch up cluster.yaml": (is_parsed_by_raylaunch, WALK_TEST),
    f"raylaunch weights pull {REFERENCE} --cluster cluster.yaml": (
        is_parsed_by_weights,
        WALK_TEST,
    ),
    f"raylaunch serve {REFERENCE} --cluster cluster.yaml": (
        is_parsed_by_raylaunch,
        WALK_TEST,
    ),
    'raylaunch ask "你是谁" --max-tokens 2048 --cluster cluster.yaml': (
        is_parsed_by_raylaunch,
        WALK_TEST,
    ),
    "raylaunch down cluster.yaml": (is_parsed_by_raylaunch, WALK_TEST),
    "pip install '.[vllm]'": (names_an_extra, None),
    "docker build -f docker/Dockerfile -t raylaunch:0.32.0 .": (names_the_dockerfile, BY_CONTAINER_TEST),
    "docker run -d --name raylaunch --gpus all --network host --ipc host --ulimit nofile=1048576:1048576 "
    "-v /data:/data raylaunch:0.32.0 ray start --head --port=6379 --num-gpus=8 --block": (
        runs_ray_in_the_image,
        BY_CONTAINER_TEST,
    ),
    f"docker exec -it raylaunch raylaunch serve {REFERENCE}": (runs_raylaunch_in_the_container, BY_CONTAINER_TEST),
}


def test_both_readmes_have_the_same_commands() -> None:
    assert read_commands("README.md") == read_commands("README.zh-CN.md")


def test_every_command_is_accounted_for() -> None:
    assert set(read_commands("README.md")) == set(CHECKS)


@pytest.mark.parametrize("command", CHECKS)
def test_command(command: str) -> None:
    check, heavy_test = CHECKS[command]
    check(command)
    if heavy_test:
        file, _, name = heavy_test.partition("::")
        tree = ast.parse((ROOT / file).read_text())
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_values_of_flag_and_variable_are_shown() -> None:
    """What the README says of `--set` and RAYLAUNCH_*: they win over the file."""
    assert "4096" in run(f"raylaunch config {REFERENCE} --set engine.max_model_len=4096").stdout
    shown = json.loads(run(f"RAYLAUNCH_ENGINE__MAX_MODEL_LEN=4096 raylaunch config {REFERENCE} --json").stdout)
    assert shown["engine.max_model_len"]["value"] == 4096


@pytest.mark.parametrize("file", ["README.md", "README.zh-CN.md"])
def test_launch_file_of_the_readme_loads(file: str, tmp_path: Path) -> None:
    (block,) = re.findall(r"^```yaml\n(.*?)^```$", (ROOT / file).read_text(), re.M | re.S)
    (tmp_path / "launch.yaml").write_text(block)
    launch = load(tmp_path / "launch.yaml", environ={})
    assert (launch.cluster.nodes, launch.tensor_parallel_size, launch.pipeline_parallel_size) == (2, 4, 4)


@pytest.mark.parametrize("file", ["README.md", "README.zh-CN.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"])
def test_links_lead_somewhere(file: str) -> None:
    text = (ROOT / file).read_text()
    headings = {
        re.sub(r"[^\w\- ]", "", line).strip().lower().replace(" ", "-")
        for line in text.splitlines()
        if line.startswith("#")
    }
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in headings
        elif not target.startswith("https://"):
            assert (ROOT / target).exists()
