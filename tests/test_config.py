"""Launch files, variables and flags against real files: what holds, what is refused, and how it is told."""

import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raylaunch import config
from raylaunch.config import LaunchConfig
from raylaunch.errors import LaunchFileError

REFERENCE = Path(__file__).parent.parent / "configs" / "deepseek-r1-70b.yaml"
BASE = """\
model:
  repo: owner/name
  path: /nowhere/model
cluster:
  nodes: 2
  gpus_per_node: 8
engine:
  tensor_parallel_size: 4
  pipeline_parallel_size: 4
"""

Write = Callable[[str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a launch file and return its path."""

    def _write(content: str | bytes) -> Path:
        path = tmp_path / "launch.yaml"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return _write


def load(path: Path | None, *sets: str, **environ: str) -> LaunchConfig:
    return config.load(path, sets=sets, environ=environ)


def problems_of(path: Path | None, *sets: str, **environ: str) -> tuple[str, ...]:
    with pytest.raises(LaunchFileError) as caught:
        load(path, *sets, **environ)
    assert caught.value.fix
    return caught.value.problems


def test_reference_case_is_what_it_says() -> None:
    launch = load(REFERENCE)
    assert (launch.model.repo, launch.model_folder) == (
        "unsloth/DeepSeek-R1-Distill-Llama-70B",
        Path("/data/DeepSeek-R1-Distill-Llama-70B"),
    )
    assert (launch.tensor_parallel_size, launch.pipeline_parallel_size, launch.world_size) == (4, 4, 16)
    assert (launch.cluster.nodes, launch.cluster.gpus_per_node, launch.cluster.wait_s) == (2, 8, 600)
    assert (launch.host, launch.port, launch.engine["dtype"]) == ("0.0.0.0", 8080, "float16")
    assert launch.served_model_names == (launch.model.repo, str(launch.model_folder))
    assert launch.engine["distributed_executor_backend"] == "ray"


def test_no_file_is_the_shipped_demo() -> None:
    launch = load(None)
    assert launch.path is None
    assert (launch.model.repo, launch.cluster.local) == ("HuggingFaceTB/SmolLM2-135M-Instruct", True)
    assert (launch.host, launch.port, launch.world_size) == ("127.0.0.1", 8080, 1)
    assert launch.model_folder == (
        Path(os.environ["RAYLAUNCH_HOME"]) / "models" / "HuggingFaceTB--SmolLM2-135M-Instruct"
    )
    assert launch.fingerprint() == load(REFERENCE.parent / "demo.yaml").fingerprint()


def test_flag_beats_variable_beats_file_beats_default(write: Write) -> None:
    path = write(BASE + "  seed: 1\n  max_num_seqs: 1\n  max_model_len: 1\nserver:\n  port: 1\n")
    launch = load(
        path,
        "engine.max_model_len=3",
        RAYLAUNCH_ENGINE__MAX_MODEL_LEN="2",
        RAYLAUNCH_ENGINE__MAX_NUM_SEQS="2",
        RAYLAUNCH_HOME="/x",
        RAYLAUNCH_STANDIN="cpu",
        OTHER="x",
    )
    rows = {key: (value, source) for key, value, source in config.describe_rows(launch)}
    assert rows["engine.max_model_len"] == (3, "--set engine.max_model_len")
    assert rows["engine.max_num_seqs"] == (2, "RAYLAUNCH_ENGINE__MAX_NUM_SEQS")
    assert rows["engine.seed"] == (1, f"{path}:10")
    assert rows["server.port"] == (1, f"{path}:14")
    assert rows["server.host"] == ("127.0.0.1", "default")
    assert rows["cluster.wait_s"] == (600.0, "default")
    assert rows["engine.distributed_executor_backend"] == ("ray", "default")


def test_later_flag_wins_and_nested_values_merge(write: Write) -> None:
    path = write(BASE + "  compilation_config: {mode: 3, pass_config: {fuse_norm_quant: true}}\n")
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


def test_aliases_and_a_byte_order_mark_are_fine(write: Write) -> None:
    launch = load(write(b"\xef\xbb\xbf" + b"model: {repo: &r owner/name}\nengine: {served_model_name: [*r, b]}\n"))
    assert launch.served_model_names == ("owner/name", "b")


def test_an_empty_block_is_fine(write: Write) -> None:
    assert load(write("model:\n  repo: owner/name\nengine:\n")).model.repo == "owner/name"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("  tensor_paralel_size: 4", r"engine\.tensor_paralel_size: unknown key; nearest is tensor_parallel_size "
         r"\(example: tensor_parallel_size: 4\)"),
        ("  max-model-len: 4", r"engine\.max-model-len: unknown key; nearest is max_model_len \(example: .*: 4\)"),
        ("  tp: 4", "engine.tp: unknown key; nearest is tensor_parallel_size"),
        ("  port: 4", r"engine\.port: unknown key; it belongs to the server block \(server\.port\)"),
        ("  qqqqqq: 4", r"engine\.qqqqqq: unknown key: vLLM \S+ has none like it"),
        ("  compilation_config: {bakend: x}", "compilation_config.bakend: unknown key; nearest is backend"),
        ("  compilation_config: {pass_config: {fuse_norm_quan: true}}", "pass_config.fuse_norm_quan: unknown key; "
         "nearest is fuse_norm_quant"),
        ("  speculative_config: {num_speculative_token: 2}", "nearest is num_speculative_tokens"),
        ("  compilation_config: {cudagraph_num_of_warmups: a}", "cudagraph_num_of_warmups: expected a whole number"),
        ("  compilation_config: 3", "compilation_config: expected a block of `name: value`, got a whole number"),
        ("  seed: true", r"engine\.seed: expected a whole number, got true or false \(true\)"),
        ('  seed: "4"', r'expected a whole number, got text \("4"\): write a number without quotes.*example: 4'),
        ("  max_model_len: 8k", r"expected a whole number or null, got text.*example: 8192"),
        ("  seed: 1.5", r"expected a whole number, got a number \(1\.5\)"),
        ("  seed: [1]", "expected a whole number, got a list"),
        ("  seed:", "expected a whole number, got nothing"),
        ("  enforce_eager: 1", "expected true or false, got a whole number"),
        ("  tokenizer: 12", "expected text or null, got a whole number .12.: put it in quotes"),
        ("  tokenizer: on", r"got true or false \(true\): put it in quotes"),
        ("  served_model_name: [a, 1]", "entry 2: expected text, got a whole number"),
        ("  dtype: flot16", r'vLLM \S+ has no such dtype: "flot16" is not a choice; nearest is float16 \(of auto'),
        ("  runner: generat", "nearest is generate"),
        ("  gpu_memory_utilization: 1.5", "1.5 is out of range: it must be more than 0 and at most 1"),
        ("  gpu_memory_utilization: .nan", "nan is no finite number"),
        ("  max_num_seqs: 0", "0 is out of range: it must be at least 1"),
        ("  model: x/y", r"engine\.model: .*model\.repo"),
        ("  revision: main", r"engine\.revision: .*model\.revision"),
        ("  nnodes: 2", r"engine\.nnodes: .*cluster\.nodes"),
        ("  distributed_executor_backend: mp", '"mp" cannot reach other nodes'),
        ("  distributed_executor_backend:", "null cannot reach other nodes"),
        ("  seed: 99999999999999999999", r"engine\.seed: a number of more than 64 bits"),
        ("  tokenizer: !x y", r"engine\.tokenizer: a YAML tag"),
        ("  seed: !!int x", r"engine\.seed: a number or word that YAML cannot read"),
        ('  tokenizer: "\\ud800"', r"engine\.tokenizer: text with characters that no program can pass on"),
        ("  1: x", "a name here is no text; put it in quotes"),
        ("  ? [a]\n  : x", "a name here is no text"),
    ],
)  # fmt: skip
def test_one_bad_line_is_told_with_its_place(write: Write, line: str, expected: str) -> None:
    path = write(BASE + line + "\n")
    (problem,) = problems_of(path)
    assert problem.startswith(f"{path}:10: "), problem
    assert re.search(expected, problem), problem


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("model: {repo: /data/x}\n", r":1: model\.repo: .*a folder goes into model\.path"),
        ("model: {repo: a b}\n", r":1: model\.repo: .*no Hugging Face id"),
        ("model: {path: data/x}\n", r':1: model\.path: "data/x" is not absolute'),
        ("model: {path: ~/x}\n", r"is not absolute"),
        ("cluster: {nodes: 0}\n", r":1: cluster\.nodes: 0 is out of range: it must be at least 1 and at most 1024"),
        ("cluster: {nodes: 2}\n", r":1: cluster\.nodes: more than one node needs model\.path"),
        ("cluster: {wait_s: -1}\n", r"cluster\.wait_s: -1 is out of range"),
        ("cluster: {local: 1}\n", r"cluster\.local: expected true or false"),
        ("cluster: {gpus: 8}\n", r"unknown key; nearest is gpus_per_node \(example: gpus_per_node: 8\)"),
        ("cluster: {tensor_parallel_size: 8}\n", r"it belongs to the engine block"),
        ("server: {port: 70000}\n", r"70000 is out of range: it must be at least 1 and at most 65535"),
        ("server: {host: null}\n", r"server\.host: expected text, got nothing"),
        ("server: {host: a b}\n", r"server\.host: .*no address"),
        ("server: {uds: /x}\n", r"raylaunch serves on server\.host and server\.port"),
        ("server: {api_key: ''}\n", r"an empty key leaves the server open"),
        ("server: {api_key: []}\n", r"an empty key leaves the server open"),
        ("server: {lora_modules: [{nam: a, path: b}]}\n", r"server\.lora_modules\.0\.nam: unknown key; nearest is na"),
        ("engin: {seed: 1}\n", r":1: engin: unknown block; nearest is engine"),
        ("max_model_len: 1\n", r"it belongs to the engine block \(engine\.max_model_len\)"),
        ("engine: [seed]\n", r":1: engine: expected a block"),
        ("- model\n", r":1: column 1: no blocks at the top"),
        ("model\n", r"no blocks at the top"),
        ("", r":1: column 1: the file says nothing"),
        ("# nothing\n", r"the file says nothing"),
        ("model: {}\n---\nmodel: {}\n", r":2: column 1: a second document"),
        ("model: {}\nengine:\n  seed: 1\n seed: 2\n", r":4: column 2: "),
        ("model: {}\nengine: {seed: [1, 2}\n", r":2: column 21: "),
        ("model:\n\trepo: x\n", r":2: column 1: a tab; YAML indents with spaces"),
        ("model: *secret\n", r":1: column 8: an alias"),
        ("engine: {seed: 1}\nengine: {seed: 2}\n", r":2: engine: said twice; the first one is in line 1"),
        ("engine:\n  seed: 1\n  seed: 2\n", r":3: engine\.seed: said twice; the first one is in line 2"),
        ("engine: " + "[" * 5000, r"nested more than 32 levels deep"),
        ("engine: {a: &a [*a]}\n", r"aliases that unfold"),
        ("model: {}\n" + "".join(f"k{i}: x\n" for i in range(11000)), r"more than 10000 values"),
        (b"\x7fELF\x00\x01\x02", r":1: column 1: binary data"),
        (b"model: {}\nengine: \xff\xfe\n", r":2: column 9: not UTF-8 text"),
        (b"model: {}\n\x01", r":2: column 1: a control character"),
        (b"#" * (1 << 20) + b"\n#", r"larger than 1 MiB"),
    ],
)  # fmt: skip
def test_one_bad_file_is_told_with_its_place(write: Write, content: str | bytes, expected: str) -> None:
    path = write(content)
    (problem,) = problems_of(path)
    assert problem.startswith(f"{path}:"), problem
    assert re.search(expected, problem.removeprefix(str(path))), problem


def test_an_alias_bomb_is_refused(write: Write) -> None:
    levels = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    (problem,) = problems_of(write("a0: &a0 [x]\n" + "\n".join(levels)))
    assert "aliases that unfold to more than 10000 values" in problem


def test_all_problems_come_at_once_with_their_places(write: Write) -> None:
    path = write("model:\n  repo: a b\ncluster:\n  nodes: 0\nengine:\n  sed: 1\n  dtype: x\nserver:\n  port: x\n")
    problems = problems_of(
        path, "engine.max_num_seqs=0", "nonsense", RAYLAUNCH_ENGINE__SEED="x", RAYLAUNCH_MODEL_PATH="/x"
    )
    starts = [
        f"{path}:2: model.repo: ", f"{path}:4: cluster.nodes: ", f"{path}:6: engine.sed: ", f"{path}:7: engine.dtype: ",
        f"{path}:9: server.port: ", "--set engine.max_num_seqs: 0 is out of range", "--set: it has no value",
        "RAYLAUNCH_ENGINE__SEED: engine.seed: ", "RAYLAUNCH_MODEL_PATH: no variable of raylaunch; nearest is "
        "RAYLAUNCH_MODEL__PATH",
    ]  # fmt: skip
    assert sorted(next(p for p in problems if p.startswith(start)) for start in starts) == sorted(problems)


def test_very_many_problems_are_counted(write: Write) -> None:
    problems = problems_of(write("engine:\n" + "".join(f"  k{n}: 1\n" for n in range(200))))
    assert len(problems) <= 52
    assert problems[-1].startswith("and ")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("RAYLAUNCH_ENGIN__SEED", "1", "nearest is RAYLAUNCH_ENGINE__SEED"),
        ("RAYLAUNCH_ENGINE", "1", "no variable of raylaunch"),
        ("RAYLAUNCH_HOM", "1", "nearest is RAYLAUNCH_HOME"),
        ("RAYLAUNCH_ENGINE__SED", "1", "engine.sed: unknown key; nearest is seed"),
        ("RAYLAUNCH_ENGINE__SEED", "[", "its value cannot be read as YAML"),
        ("RAYLAUNCH_SERVER__API_KEY", "", "set, but empty"),
        ("RAYLAUNCH_ENGINE__TOKENIZER", os.fsdecode(b"\xff"), "text that is not UTF-8"),
    ],
)
def test_a_bad_variable_is_named(name: str, value: str, expected: str) -> None:
    (problem,) = problems_of(None, **{name: value})
    assert problem.startswith(f"{name}: ")
    assert expected in problem


@pytest.mark.parametrize(
    ("flag", "start"),
    [
        ("engine.seed", "--set: it has no value"),
        ("engine=1", "--set engine: no key of a launch"),
        ("engine..seed=1", "--set engine..seed: no key"),
        ("=1", "--set : no key"),
        ("engine.seed=[", "--set engine.seed: its value cannot be read as YAML"),
        ("engine.sed=1", "--set engine.sed: unknown key; nearest is seed"),
        ("engin.seed=1", "--set engin.seed: engin: unknown block; nearest is engine"),
        ("engine.compilation_config.mod=1", "--set engine.compilation_config.mod: unknown key; nearest is mode"),
    ],
)
def test_a_bad_flag_is_named(flag: str, start: str) -> None:
    (problem,) = problems_of(None, flag)
    assert problem.startswith(start)


def test_paths_that_are_no_files(tmp_path: Path, write: Write) -> None:
    near = write(BASE)
    (problem,) = problems_of(tmp_path / "lunch.yaml")
    assert problem == f"{tmp_path / 'lunch.yaml'}: there is no such file; nearest is {near}"
    (problem,) = problems_of(tmp_path)
    assert problem == f"{tmp_path}: is a directory, not a launch file; in it: launch.yaml"
    (problem,) = problems_of(tmp_path / "no" / "x.yaml")
    assert problem.endswith(f"there is no such file, nor a folder {tmp_path / 'no'}")
    (problem,) = problems_of(Path("a\0b"))
    assert "cannot be read" in problem
    (problem,) = problems_of(Path("x" * 5000))
    assert "cannot be read" in problem
    os.mkfifo(tmp_path / "fifo")
    (problem,) = problems_of(tmp_path / "fifo")
    assert "is no regular file" in problem


def test_a_file_without_permission(write: Write) -> None:
    path = write(BASE)
    path.chmod(0)
    code = (
        "import os, sys; from pathlib import Path; from raylaunch import config, errors\n"
        "config.load(None, environ={})  # imports, which the other user may not read\n"
        "if os.geteuid() == 0: os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try: config.load(Path(sys.argv[1]), environ={})\n"
        "except errors.LaunchFileError as error: print(*error.problems)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert f"{path}: no permission to read it" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("sets", "expected"),
    [
        (["engine.pipeline_parallel_size=5"], r"TP=4 x PP=5 needs 20 GPUs, but cluster has 2 node.* = 16"),
        (["engine.data_parallel_size=2"], r"TP=4 x PP=4 x DP=2 needs 32 GPUs"),
        (["engine.prefill_context_parallel_size=2"], r"TP=4 x PP=4 x PCP=2 needs 32 GPUs"),
        (["engine.tensor_parallel_size=16", "engine.pipeline_parallel_size=1"], r"16 is more than the 8 GPU.* network"),
        (["engine.tensor_parallel_size=5", "engine.pipeline_parallel_size=3"], r"only 2 groups of 5 GPUs fit"),
    ],
)
def test_layouts_that_do_not_fit(write: Write, sets: list[str], expected: str) -> None:
    (problem,) = problems_of(write(BASE), *sets)
    assert re.search(rf"^--set engine\.\w+: {expected}", problem), problem


def test_tensor_parallelism_across_nodes_can_be_asked_for(write: Write) -> None:
    sets = ["engine.tensor_parallel_size=16", "engine.pipeline_parallel_size=1", "cluster.tp_across_nodes=true"]
    assert load(write(BASE), *sets).world_size == 16


def test_a_bad_value_brings_no_second_problem(write: Write) -> None:
    (problem,) = problems_of(write(BASE), "cluster.gpus_per_node=eight")
    assert "expected a whole number" in problem


LLAMA_70B = {"num_attention_heads": 64, "num_key_value_heads": 8, "num_hidden_layers": 80}


@pytest.mark.parametrize(
    ("shape", "tp", "pp", "expected"),
    [
        (LLAMA_70B, 8, 2, []),
        (LLAMA_70B, 3, 1, ["3 cannot split the model's 64 attention heads", "3 cannot split the model's 8 KV heads"]),
        ({"text_config": LLAMA_70B, "num_attention_heads": 7}, 4, 4, []),
        ({**LLAMA_70B, "num_hidden_layers": 3}, 4, 4, ["4 stages are more than the model's 3 layers"]),
        ({"num_attention_heads": 9, "num_key_value_heads": 3}, 2, 1, [r"9 attention heads \(1, 3 can\)", "3 KV heads"]),
        ({"num_attention_heads": 16, "num_key_value_heads": 2}, 8, 1, []),
        ({"num_attention_heads": "64", "num_key_value_heads": None, "num_hidden_layers": True}, 3, 5, []),
        ({"num_attention_heads": -1, "num_key_value_heads": 0, "text_config": []}, 3, 5, []),
    ],
)
def test_heads_and_layers_have_to_split(
    write: Write, tmp_path: Path, shape: dict[str, Any], tp: int, pp: int, expected: list[str]
) -> None:
    sets = [f"engine.tensor_parallel_size={tp}", f"engine.pipeline_parallel_size={pp}", "cluster.nodes=4"]
    launch = load(write(BASE), *sets)
    told = config.check_model_shape(launch, shape)
    assert len(told) == len(expected)
    assert all(
        re.search(want, problem) and problem.startswith("--set engine.")
        for want, problem in zip(expected, told, strict=True)
    )
    # and the same through the file, where the model is at hand
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(shape))
    sets.append(f"model.path={tmp_path / 'model'}")
    if expected:
        assert problems_of(write(BASE), *sets) == tuple(told)
    else:
        config.check_model_at_hand(load(write(BASE), *sets))


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"[" * 100_000])
def test_a_broken_model_config_is_told(write: Write, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    (problem,) = problems_of(write(BASE), f"model.path={tmp_path}")
    assert problem == f"--set model.path: {tmp_path / 'config.json'} is no JSON object, so this is no model's folder"


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
def test_no_error_repeats_a_secret(write: Write, line: str) -> None:
    problems = problems_of(write(line + "\n"))
    assert problems
    if "{sk-hush" not in line:  # used as a name, not as a value
        assert SECRET not in "".join(problems)


@pytest.mark.parametrize(
    "flag", ["server.api_key:sk-hush-hush", "sk-hush-hush", "server.api_kee=sk-hush-hush", "server.port=*sk-hush-hush"]
)
def test_no_error_of_a_flag_repeats_a_secret(flag: str) -> None:
    assert SECRET not in "".join(problems_of(None, flag))


def test_secrets_are_masked_where_a_launch_is_shown(write: Write) -> None:
    text = (
        f"server: {{api_key: [{SECRET}, {SECRET}2], return_tokens_as_token_ids: true}}\n"
        f"engine: {{hf_token: {SECRET}, tokenizer: tok, max_num_batched_tokens: 4096,\n"
        f" model_loader_extra_config: {{awsSecretKey: {SECRET}, sub: {{access_token: {SECRET}}}}}}}\n"
    )
    launch = load(write(text))
    rows = config.describe_rows(launch)
    assert SECRET not in str(rows)
    assert SECRET not in json.dumps(launch.dump(mask=True))
    assert SECRET in json.dumps(launch.dump(mask=False))
    values = {key: value for key, value, _ in rows}
    assert (values["engine.tokenizer"], values["engine.max_num_batched_tokens"]) == ("tok", 4096)
    assert values["server.return_tokens_as_token_ids"] is True
    assert launch.api_keys == (SECRET, f"{SECRET}2")


def test_a_launch_survives_its_hand_over(write: Write) -> None:
    launch = load(write(BASE), "engine.hf_overrides={a: {b: [1, null, true, 0.5, é]}}", "server.api_key=k")
    there = LaunchConfig.from_json(launch.to_json())
    assert there == launch
    assert pickle.loads(pickle.dumps(launch)) == launch
    assert there.fingerprint() == launch.fingerprint()
    with pytest.raises(TypeError):
        launch.engine["seed"] = 1  # type: ignore[index]


def test_fingerprint_is_of_values_not_of_sources(write: Write) -> None:
    path = write(BASE)
    assert load(path, "engine.seed=1").fingerprint() == load(path, RAYLAUNCH_ENGINE__SEED="1").fingerprint()
    assert load(path, "engine.seed=1").fingerprint() != load(path, "engine.seed=2").fingerprint()
    assert load(path, "server.api_key=a").fingerprint() != load(path, "server.api_key=b").fingerprint()


def test_with_values_derives_and_checks(write: Write) -> None:
    launch = load(write(BASE + "  gpu_memory_utilization: 0.5\n"))
    other = config.with_values(
        launch, {"server.port": 1234, "model.path": "/x"}, without=["engine.gpu_memory_utilization"], why="rehearsal"
    )
    assert (other.port, launch.port) == (1234, 8080)
    assert "gpu_memory_utilization" not in other.engine
    assert str(other.sources["server.port"]) == "rehearsal"
    assert other.sources["cluster.nodes"] == launch.sources["cluster.nodes"]
    assert other.path == launch.path
    with pytest.raises(LaunchFileError) as caught:
        config.with_values(launch, {"server.port": 0}, why="rehearsal")
    assert caught.value.problems[0].startswith("rehearsal: server.port: 0 is out of range")


def test_loading_is_light() -> None:
    code = (
        "import sys; from pathlib import Path; from raylaunch import config; config.load(None, environ={}); "
        "config.load(Path(sys.argv[1]), environ={}); "
        "print(sorted({'ray', 'vllm', 'torch', 'transformers', 'huggingface_hub', 'openai', 'rich'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(REFERENCE)], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
