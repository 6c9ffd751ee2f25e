"""Launch files, variables and flags that hold: priority, sources, secrets, hand-over."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from raylaunch.base.errors import LaunchFileError
from raylaunch.config import launch_file
from raylaunch.config.defaults import DEMO_REPO
from raylaunch.config.launch import LaunchConfig
from tests.config.launches import BASE, REFERENCE, load, problems_of, write


def test_path_alone_has_no_repo(tmp_path):
    """It is served under its path, with and without a slash, and its folder's name; the demo's repo is for no path."""
    launch = load(write(tmp_path, b"model: {path: /data/my tune/}\n"))
    assert launch.model.repo is None
    assert launch.served_model_names == ("/data/my tune", "my tune", "/data/my tune/")
    assert load(write(tmp_path, b"cluster: {nodes: 1}\n")).model.repo == DEMO_REPO


def test_reference_case_is_what_it_says() -> None:
    launch = load(REFERENCE)
    assert (launch.model.repo, launch.model_folder) == (
        "unsloth/DeepSeek-R1-Distill-Llama-70B",
        Path("/data/DeepSeek-R1-Distill-Llama-70B"),
    )
    assert (launch.tensor_parallel_size, launch.pipeline_parallel_size, launch.world_size) == (4, 4, 16)
    assert (launch.cluster.nodes, launch.cluster.gpus_per_node, launch.cluster.wait_s) == (2, 8, 600)
    assert (launch.host, launch.port, launch.engine["dtype"]) == ("0.0.0.0", 8080, "float16")
    assert launch.served_model_names == (launch.model.repo, folder := str(launch.model_folder), f"{folder}/")
    assert launch.engine["distributed_executor_backend"] == "ray"


def test_no_file_is_the_shipped_demo() -> None:
    launch = load(None)
    assert launch.path is None
    assert (launch.model.repo, launch.cluster.local) == ("HuggingFaceTB/SmolLM2-135M-Instruct", True)
    assert launch.model.repo == DEMO_REPO
    assert launch.sources["model.repo"].kind == "file"
    assert (launch.host, launch.port, launch.world_size) == ("127.0.0.1", 8080, 1)
    assert launch.model_folder == (
        Path(os.environ["RAYLAUNCH_HOME"]) / "models" / "HuggingFaceTB--SmolLM2-135M-Instruct"
    )
    assert launch.fingerprint() == load(REFERENCE.parent / "demo.yaml").fingerprint()


def test_flag_beats_variable_beats_file_beats_default(tmp_path: Path) -> None:
    path = write(tmp_path, BASE + "  seed: 1\n  max_num_seqs: 1\n  max_model_len: 1\nserver:\n  port: 1\n")
    launch = load(
        path,
        "engine.max_model_len=3",
        RAYLAUNCH_ENGINE__MAX_MODEL_LEN="2",
        RAYLAUNCH_ENGINE__MAX_NUM_SEQS="2",
        RAYLAUNCH_HOME="/x",
        RAYLAUNCH_STANDIN="cpu",
        OTHER="x",
    )
    rows = {key: (value, source) for key, value, source in launch_file.describe_rows(launch)}
    assert rows["engine.max_model_len"] == (3, "--set engine.max_model_len")
    assert rows["engine.max_num_seqs"] == (2, "RAYLAUNCH_ENGINE__MAX_NUM_SEQS")
    assert rows["engine.seed"] == (1, f"{path}:10")
    assert rows["server.port"] == (1, f"{path}:14")
    assert rows["server.host"] == ("127.0.0.1", "default")
    assert rows["cluster.wait_s"] == (600.0, "default")
    assert rows["engine.distributed_executor_backend"] == ("ray", "default")


def test_later_flag_wins_and_nested_values_merge(tmp_path: Path) -> None:
    path = write(tmp_path, BASE + "  compilation_config: {mode: 3, pass_config: {fuse_norm_quant: true}}\n")
    launch = load(
        path,
        "engine.compilation_config.mode=1",
        "engine.compilation_config.mode=0",
        "engine.hf_overrides.rope.type=yarn",
        RAYLAUNCH_ENGINE__COMPILATION_CONFIG__BACKEND="eager",
    )
    expected = {"mode": 0, "backend": "eager", "pass_config": {"fuse_norm_quant": True}}
    assert launch.engine["compilation_config"] == expected
    assert launch.engine["hf_overrides"] == {"rope": {"type": "yarn"}}
    assert launch.sources["engine.compilation_config.backend"].kind == "variable"


def test_text_options_take_flags_and_variables_as_they_stand() -> None:
    launch = load(None, "model.revision=1234", "server.chat_template={{ x }}", RAYLAUNCH_SERVER__API_KEY="*0123")
    assert launch.model.revision == "1234"
    assert launch.server["chat_template"] == "{{ x }}"
    assert launch.api_keys == ("*0123",)


@pytest.mark.parametrize("key", ["#s3cret", "s3 #cret", "&s3 cret", "s: 3"])
def test_no_part_of_a_key_is_left_out(key: str) -> None:
    """What YAML takes for a comment or an anchor: the key would be another, or the server open."""
    assert load(None, RAYLAUNCH_SERVER__API_KEY=key).api_keys == (key,)
    assert load(None, f"server.api_key={key}").api_keys == (key,)


def test_text_that_needs_quotes(tmp_path: Path) -> None:
    """Is told so, and a number of wide digits is no example."""
    for value, what in (("@x", "put text that starts with it in quotes"), ("a: b", "a colon and a space in quotes")):
        (problem,) = problems_of(write(tmp_path, f"model: {{path: /m}}\nengine:\n  served_model_name: {value}\n"))
        assert what in problem
    (problem,) = problems_of(write(tmp_path, "model: {path: /m}\nengine: {max_model_len: \uff11\uff10}\n"))
    assert problem.endswith("(example: 8192)")


def test_aliases_and_a_byte_order_mark_are_fine(tmp_path: Path) -> None:
    launch = load(
        write(tmp_path, b"\xef\xbb\xbf" + b"model: {repo: &r owner/name}\nengine: {served_model_name: [*r, b]}\n")
    )
    assert launch.served_model_names == ("owner/name", "b")


def test_an_empty_block_is_fine(tmp_path: Path) -> None:
    assert load(write(tmp_path, "model:\n  repo: owner/name\nengine:\n")).model.repo == "owner/name"


SECRET = "sk-hush-hush"


@pytest.mark.parametrize(
    "line",
    [
        "server: {api_key: [[sk-hush-hush]]}", "server: {api_key: {sk-hush-hush: 1}, port: x}",
        "server: {api_kee: sk-hush-hush}", "server: {api_key: *sk-hush-hush }", "server: {api_key: !sk-hush-hush x}",
        "server: {api_key: &sk-hush-hush sk-hush-hush, port: x, sport: *sk-hush-hush }", "token: sk-hush-hush",
        "engine: {hf_token: [sk-hush-hush]}", "server: {api_key: 'sk-hush-hush}", "engine: {token: sk-hush-hush}",
        "server: {api_key: %sk-hush-hush}", "server: {api_key: !<sk-hush-hush> x}",
        "server: {api_key: !a!sk-hush-hush x}",
        "server:\n  api_key: sk-hush-hush\n sk-hush-hush", "server: {api_key: \"\\qsk-hush-hush\"}",
    ],
)  # fmt: skip
def test_no_error_repeats_a_secret(tmp_path: Path, line: str) -> None:
    problems = problems_of(write(tmp_path, line + "\n"))
    assert problems
    if "{sk-hush" not in line:  # used as a name, not as a value
        assert SECRET not in "".join(problems)


@pytest.mark.parametrize(
    "flag", ["server.api_key:sk-hush-hush", "sk-hush-hush", "server.api_kee=sk-hush-hush", "server.port=*sk-hush-hush"]
)
def test_no_error_of_a_flag_repeats_a_secret(flag: str) -> None:
    assert SECRET not in "".join(problems_of(None, flag))


def test_secrets_are_masked_where_a_launch_is_shown(tmp_path: Path) -> None:
    text = (
        f"server: {{api_key: [{SECRET}, {SECRET}2], return_tokens_as_token_ids: true}}\n"
        f"engine: {{hf_token: {SECRET}, tokenizer: tok, max_num_batched_tokens: 4096,\n"
        f" model_loader_extra_config: {{awsSecretKey: {SECRET}, sub: {{access_token: {SECRET}}}}}}}\n"
    )
    launch = load(write(tmp_path, text))
    rows = launch_file.describe_rows(launch)
    assert SECRET not in str(rows)
    assert SECRET not in json.dumps(launch.dump(mask=True))
    assert SECRET in json.dumps(launch.dump(mask=False))
    values = {key: value for key, value, _ in rows}
    assert (values["engine.tokenizer"], values["engine.max_num_batched_tokens"]) == ("tok", 4096)
    assert values["server.return_tokens_as_token_ids"] is True
    assert launch.api_keys == (SECRET, f"{SECRET}2")


def test_a_launch_survives_its_hand_over(tmp_path: Path) -> None:
    launch = load(write(tmp_path, BASE), "engine.hf_overrides={a: {b: [1, null, true, 0.5, é]}}", "server.api_key=k")
    there = LaunchConfig.from_json(launch.to_json())
    assert there == launch
    assert pickle.loads(pickle.dumps(launch)) == launch
    assert there.fingerprint() == launch.fingerprint()
    with pytest.raises(TypeError):
        launch.engine["seed"] = 1  # type: ignore[index]


def test_fingerprint_is_of_values_not_of_sources(tmp_path: Path) -> None:
    path = write(tmp_path, BASE)
    assert load(path, "engine.seed=1").fingerprint() == load(path, RAYLAUNCH_ENGINE__SEED="1").fingerprint()
    assert load(path, "engine.seed=1").fingerprint() != load(path, "engine.seed=2").fingerprint()
    assert load(path, "server.api_key=a").fingerprint() != load(path, "server.api_key=b").fingerprint()


def test_with_values_derives_and_checks(tmp_path: Path) -> None:
    launch = load(write(tmp_path, BASE + "  gpu_memory_utilization: 0.5\n"))
    other = launch_file.with_values(
        launch, {"server.port": 1234, "model.path": "/x"}, without=["engine.gpu_memory_utilization"], why="rehearsal"
    )
    assert (other.port, launch.port) == (1234, 8080)
    assert "gpu_memory_utilization" not in other.engine
    assert str(other.sources["server.port"]) == "rehearsal"
    assert other.sources["cluster.nodes"] == launch.sources["cluster.nodes"]
    assert other.path == launch.path
    with pytest.raises(LaunchFileError) as caught:
        launch_file.with_values(launch, {"server.port": 0}, why="rehearsal")
    assert caught.value.problems[0].startswith("rehearsal: server.port: 0 is out of range")


def test_loading_is_light() -> None:
    code = (
        "import sys; from pathlib import Path; from raylaunch.config import launch_file as config;"
        "config.load(None, environ={}); "
        "config.load(Path(sys.argv[1]), environ={}); "
        "print(sorted({'ray', 'vllm', 'torch', 'transformers', 'huggingface_hub', 'openai', 'rich'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(REFERENCE)], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
