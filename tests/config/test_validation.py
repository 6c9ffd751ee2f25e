"""Launch files, variables and flags that are refused, and the messages."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.config.launches import BASE, problems_of, write


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
        ("  compilation_config: {cudagraph_num_of_warmups: a}", "cudagraph_num_of_warmups: expected an integer"),
        ("  compilation_config: 3", "compilation_config: expected a block of `name: value`, got an integer"),
        ("  seed: true", r"engine\.seed: expected an integer, got true or false \(true\)"),
        ('  seed: "4"', r'expected an integer, got text \("4"\): write a number without quotes.*example: 4'),
        ("  max_model_len: 8k", r"expected an integer or null, got text.*example: 8192"),
        ("  seed: 1.5", r"expected an integer, got a number \(1\.5\)"),
        ("  seed: [1]", "expected an integer, got a list"),
        ("  seed:", "expected an integer, got nothing"),
        ("  enforce_eager: 1", "expected true or false, got an integer"),
        ("  tokenizer: 12", "expected text or null, got an integer .12.: put it in quotes"),
        ("  tokenizer: on", r"got true or false \(true\): put it in quotes"),
        ("  served_model_name: [a, 1]", "entry 2: expected text, got an integer"),
        ("  dtype: flot16", r'vLLM \S+ has no such dtype: "flot16" is not a choice; nearest is float16 \(of auto'),
        ("  runner: generat", "nearest is generate"),
        ("  gpu_memory_utilization: 1.5", "1.5 is out of range: it must be more than 0 and at most 1"),
        ("  gpu_memory_utilization: .nan", "nan is not a finite number"),
        ("  max_num_seqs: 0", "0 is out of range: it must be at least 1"),
        ("  model: x/y", r"engine\.model: .*model\.repo"),
        ("  revision: main", r"engine\.revision: .*model\.revision"),
        ("  nnodes: 2", r"engine\.nnodes: .*cluster\.nodes"),
        ("  distributed_executor_backend: mp", '"mp" cannot reach other nodes'),
        ("  distributed_executor_backend:", "null cannot reach other nodes"),
        ("  seed: 99999999999999999999", r"engine\.seed: a number of more than 64 bits"),
        ("  tokenizer: !x y", r"engine\.tokenizer: a YAML tag"),
        ("  seed: !!int x", r"engine\.seed: a value that YAML cannot read"),
        ('  tokenizer: "\\ud800"', r"engine\.tokenizer: text with characters that no program can pass on"),
        ("  1: x", "this key is not a string; put it in quotes"),
        ("  ? [a]\n  : x", "this key is not a string"),
        ("  <<: {seed: 1}", r"merge keys \(<<\) are not read"),
        ("  revision\u200b: x", r"engine: revision\\x200b has a character that looks like a space"),
        ("  tokenizer: $TOKENIZER", r"variables are not replaced in this file: .*RAYLAUNCH_ENGINE__TOKENIZER"),
        ("  served_model_name: [a, '${NAME:-m}']", r"variables are not replaced"),
    ],
)  # fmt: skip
def test_one_bad_line_is_reported_with_its_place(tmp_path: Path, line: str, expected: str) -> None:
    path = write(tmp_path, BASE + line + "\n")
    (problem,) = problems_of(path)
    assert problem.startswith(f"{path}:10: "), problem
    assert re.search(expected, problem), problem


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("model: {repo: /data/x}\n", r":1: model\.repo: .*a folder goes into model\.path"),
        ("model: {repo: a b}\n", r":1: model\.repo: .*not a Hugging Face id"),
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
        ("server: {host: '0.0.0.0:8000'}\n", r"server\.host: .*the port goes into server\.port"),
        ("engine: {tokenizer: ~/tok}\n", r":1: engine\.tokenizer: .*neither a Hugging Face id .* nor an absolute path"),
        ("server: {lora_modules: [{name: a, path: lora/x/y}]}\n", r"lora_modules.*neither a Hugging Face id"),
        ("engine: {speculative_config: {model: ./d, num_speculative_tokens: 2}}\n", r"config\.model: .*neither"),
        ("auth: {ssh_user: u}\nprovider: {type: local}\n", r"this is no launch file: it has auth and provider"),
        ("server: {host: a b}\n", r"server\.host: .*not an address"),
        ("server: {uds: /x}\n", r"raylaunch serves on server\.host and server\.port"),
        ("server: {api_key: ''}\n", r"an empty key leaves the server open"),
        ("server: {api_key: []}\n", r"an empty key leaves the server open"),
        ("server: {lora_modules: [{nam: a, path: b}]}\n", r"server\.lora_modules\.0\.nam: unknown key; nearest is na"),
        ("engin: {seed: 1}\n", r":1: engin: unknown block; nearest is engine"),
        ("max_model_len: 1\n", r"it belongs to the engine block \(engine\.max_model_len\)"),
        ("engine: [seed]\n", r":1: engine: expected a block"),
        ("- model\n", r":1: column 1: no blocks at the top"),
        ("model\n", r"no blocks at the top"),
        ("", r":1: column 1: the file is empty"),
        ("# nothing\n", r"the file is empty"),
        ("model: {}\n---\nmodel: {}\n", r":2: column 1: a second document"),
        ("model: {}\nengine:\n  seed: 1\n seed: 2\n", r":4: column 2: "),
        ("model: {}\nengine: {seed: [1, 2}\n", r":2: column 21: "),
        ("model: {path: '/data/${MODEL}'}\n", r":1: model\.path: variables are not replaced"),
        ("server: {api_key: $KEY}\n", r":1: server\.api_key: variables .* set RAYLAUNCH_SERVER__API_KEY"),
        ("model: {revision: ${REV}}\n", r":1: column 20: expected ',' or '}', but got '{'"),
        ("model:\n  repo: a/b\nengine：\n  seed: 1\n", r":3: column 7: a full-width colon"),
        ("model：{repo: a/b}", r":1: a full-width colon"),
        ("engine:\n  seed: 1\n x: 2\n", r":3: column 2: the indentation differs"),
        ("model: {}".encode("utf-16"), r":1: column 1: UTF-16 text"),
        ("model:\n\trepo: x\n", r":2: column 1: a tab; YAML indents with spaces"),
        ("model: *secret\n", r":1: column 8: an alias"),
        ("engine: {seed: 1}\nengine: {seed: 2}\n", r":2: engine: duplicate key, first on line 1"),
        ("engine:\n  seed: 1\n  seed: 2\n", r":3: engine\.seed: duplicate key, first on line 2"),
        ("engine: " + "[" * 5000, r"nested more than 32 levels deep"),
        ("engine: {a: &a [*a]}\n", r"aliases that unfold"),
        ("model: {}\n" + "".join(f"k{i}: x\n" for i in range(11000)), r"more than 10000 values"),
        (b"\x7fELF\x00\x01\x02", r":1: column 1: binary data"),
        (b"model: {}\nengine: \xff\xfe\n", r":2: column 9: not UTF-8 text"),
        (b"model: {}\n\x01", r":2: column 1: a control character"),
        (b"#" * (1 << 20) + b"\n#", r"larger than 1 MiB"),
    ],
)  # fmt: skip
def test_one_bad_file_is_reported_with_its_place(tmp_path: Path, content: str | bytes, expected: str) -> None:
    path = write(tmp_path, content)
    (problem,) = problems_of(path)
    assert problem.startswith(f"{path}:"), problem
    assert re.search(expected, problem.removeprefix(str(path))), problem


def test_an_alias_bomb_is_refused(tmp_path: Path) -> None:
    levels = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    (problem,) = problems_of(write(tmp_path, "a0: &a0 [x]\n" + "\n".join(levels)))
    assert "aliases that unfold to more than 10000 values" in problem


def test_all_problems_come_at_once_with_their_places(tmp_path: Path) -> None:
    path = write(
        tmp_path, "model:\n  repo: a b\ncluster:\n  nodes: 0\nengine:\n  sed: 1\n  dtype: x\nserver:\n  port: x\n"
    )
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


def test_very_many_problems_are_counted(tmp_path: Path) -> None:
    problems = problems_of(write(tmp_path, "engine:\n" + "".join(f"  k{n}: 1\n" for n in range(200))))
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


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    near = write(tmp_path, BASE)
    (problem,) = problems_of(tmp_path / "lunch.yaml")
    assert problem == f"{tmp_path / 'lunch.yaml'}: no such file; nearest is {near}"
    (problem,) = problems_of(tmp_path)
    assert problem == f"{tmp_path}: is a directory, not a launch file; in it: launch.yaml"
    (problem,) = problems_of(tmp_path / "no" / "x.yaml")
    assert problem.endswith(f"no such file, nor a folder {tmp_path / 'no'}")
    (problem,) = problems_of(Path("a\0b"))
    assert "cannot be read" in problem
    (problem,) = problems_of(Path("x" * 5000))
    assert "cannot be read" in problem
    os.mkfifo(tmp_path / "fifo")
    (problem,) = problems_of(tmp_path / "fifo")
    assert "is not a regular file" in problem


def test_a_file_without_permission(tmp_path: Path) -> None:
    path = write(tmp_path, BASE)
    path.chmod(0)
    code = (
        "import os, sys; from pathlib import Path; from raylaunch.config import launch_file as config\n"
        "from raylaunch.base import errors\n"
        "config.load(None, environ={})  # imports, which the other user may not read\n"
        "if os.geteuid() == 0: os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try: config.load(Path(sys.argv[1]), environ={})\n"
        "except errors.LaunchFileError as error: print(*error.problems)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert f"{path}: no permission to read it" in done.stdout, done.stderr
