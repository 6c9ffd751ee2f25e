"""The JSON Schema: the shipped one is that of the pinned vLLM, its verdicts are the validator's, another vLLM is
described once in a child and kept."""

import importlib.resources
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from raylaunch.base import ports, versions
from raylaunch.base.errors import PortTakenError
from raylaunch.config import schema
from raylaunch.config.validation import check, make_example
from tests.config.launches import load, problems_of, write

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "configs" / "launch.schema.json"
SHIPPED = importlib.resources.files("raylaunch.data") / "launch.schema.json"


@pytest.mark.engine
def test_shipped_schema_is_the_installed_vllms() -> None:
    installed = (versions.find_version("vllm") or "").partition("+")[0]
    assert installed == versions.VLLM, "`make test` installs the pinned vLLM"
    # Regenerate it with: python -m raylaunch.engine.describe_options > raylaunch/data/launch.schema.json
    assert schema.describe_in_child() == SHIPPED.read_text()


def test_editors_get_the_shipped_schema() -> None:
    """configs/launch.schema.json is the schema that ships, and a valid one."""
    assert KEPT.read_text() == SHIPPED.read_text() == schema.read_shipped().to_text()
    jsonschema.Draft202012Validator.check_schema(json.loads(KEPT.read_text()))


def test_shipped_schema_knows_what_a_launch_needs() -> None:
    shipped = schema.read_shipped()
    engine, server = shipped.list_fields("engine"), shipped.list_fields("server")
    assert shipped.vllm == versions.VLLM
    assert (engine["tensor_parallel_size"]["type"], engine["tensor_parallel_size"]["minimum"]) == ("integer", 1)
    memory = engine["gpu_memory_utilization"]
    assert (memory["type"], memory["exclusiveMinimum"], memory["maximum"]) == ("number", 0, 1)
    assert "float16" in engine["dtype"]["enum"]
    assert "enum" not in engine["quantization"]
    assert server["api_key"]["type"] == ["string", "array", "null"]
    assert server["api_key"]["items"]["type"] == "string"
    for definition in shipped.document["$defs"].values():
        for part in definition["properties"].values():
            assert part.get("$ref", "").removeprefix("#/$defs/") in ("", *shipped.document["$defs"])
            assert make_example(part)
            assert not [
                problem for value in (*part.get("examples", ()), part.get("default")) if value is not None
                for problem in check(part, value)
            ]  # fmt: skip


def test_every_option_is_described() -> None:
    """Editors show a text for raylaunch's own keys and for nearly all of vLLM's."""
    shipped = schema.read_shipped()
    for block in ("model", "cluster", "keep", "fallback"):
        assert all(part["description"] for part in shipped.list_fields(block).values())
    parts = [*shipped.list_fields("engine").values(), *shipped.list_fields("server").values()]
    assert sum("description" in part or "not" in part for part in parts) > 0.9 * len(parts)


def judge(content: str) -> list[str]:
    """The errors that the jsonschema package finds in a launch file."""
    validator = jsonschema.Draft202012Validator(json.loads(KEPT.read_text()))
    return [error.message for error in validator.iter_errors(yaml.safe_load(content))]


def list_launch_files() -> list[Path]:
    """Every launch file of the repository; Ray's cluster files have a `provider:` block."""
    found = [*(ROOT / "configs").glob("*.yaml"), *(ROOT / "raylaunch" / "data").glob("*.yaml")]
    return [path for path in found if "\nprovider:" not in path.read_text()]


@pytest.mark.parametrize("path", list_launch_files(), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_launch_files_name_a_schema_that_they_meet(path: Path) -> None:
    first = path.read_text().partition("\n")[0]
    assert first.startswith("# yaml-language-server: $schema=")
    assert (path.parent / first.partition("$schema=")[2]).read_text() == KEPT.read_text()
    assert judge(path.read_text()) == []
    assert load(path)


@pytest.mark.parametrize(
    "line",
    [
        "tensor_paralel_size: 4", "compilation_config: {bakend: x}", "compilation_config: 3", "seed: true",
        'seed: "4"', "max_model_len: 8k", "seed: 1.5", "seed: [1]", "seed:", "enforce_eager: 1", "tokenizer: 12",
        "served_model_name: [a, 1]", "dtype: flot16", "gpu_memory_utilization: 1.5", "gpu_memory_utilization: 0",
        "max_num_seqs: 0", "model: x/y", "revision: main", "nnodes: 2", "distributed_executor_backend: mp",
        "distributed_executor_backend:", "attention_config: {flash_attn_version: 7}",
        "speculative_config: {num_speculative_token: 2}",
        "x: 1}\nmodel: {repo: /data/x", "x: 1}\nmodel: {path: data/x", "x: 1}\nmodel: {path: /a/../b",
        "x: 1}\ncluster: {nodes: 0", "x: 1}\ncluster: {gpus: 8", "x: 1}\nserver: {port: 70000",
        "x: 1}\nserver: {host: null", "x: 1}\nserver: {host: a b", "x: 1}\nserver: {uds: /x",
        "x: 1}\nserver: {api_key: ''", "x: 1}\nserver: {api_key: []", "x: 1}\nserver: {api_key: ['']",
        "x: 1}\nserver: {lora_modules: [{nam: a, path: b}]", "x: 1}\nengin: {seed: 1",
        "x: 1}\nfallback: {return: later", "x: 1}\nfallback: {layouts: [{model: {}}]",
        "x: 1}\nfallback: {layouts: [{engine: {max_model_len: 8k}}]",
    ],
)  # fmt: skip
def test_the_schema_rejects_what_config_rejects(tmp_path: Path, line: str) -> None:
    content = f"engine: {{{line}}}\n".replace("engine: {x: 1}\n", "")
    assert judge(content)
    assert problems_of(write(tmp_path, content))


@pytest.mark.parametrize(
    "line",
    [
        "engine:", "engine: {max_model_len: null, served_model_name: [a, b]}", "engine: {seed: -1, watermark: 0}",
        "engine: {compilation_config: {pass_config: {fuse_norm_quant: true}, mode: 3}, hf_overrides: {a: {b: 1}}}",
        "server: {api_key: [a, b], host: '::1'}", "model: {repo: gpt2, path: /data/x..y}", "cluster: {wait_s: 0.5}",
    ],
)  # fmt: skip
def test_the_schema_accepts_what_config_accepts(tmp_path: Path, line: str) -> None:
    assert judge(line) == []
    assert load(write(tmp_path, line))


def _install(folder: Path, version: str, source: str) -> None:
    """A package called vllm, as pip leaves it."""
    info = folder / f"vllm-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")
    (folder / "vllm" / "engine").mkdir(parents=True)
    (folder / "vllm" / "entrypoints" / "openai").mkdir(parents=True)
    (folder / "vllm" / "__init__.py").write_text(
        f"__version__ = {version!r}\nfrom pathlib import Path\n"
        "with (Path(__file__).parent / 'imports').open('a') as log: log.write('x')\nprint('vLLM chatters on stdout')\n"
        + source
    )
    (folder / "vllm" / "config.py").write_text(
        "from pydantic import Field\nfrom pydantic.dataclasses import dataclass\n"
        "@dataclass\nclass ModelConfig:\n    newest_option: int = Field(default=1, ge=1)\n"
        "@dataclass\nclass SpeculativeConfig:\n    newest_option: int = Field(default=1, ge=7)\n"
    )
    (folder / "vllm" / "engine" / "arg_utils.py").write_text(
        "from dataclasses import dataclass, field\nfrom typing import Literal\nfrom vllm.config import ModelConfig\n"
        "@dataclass\nclass AsyncEngineArgs:\n    model: str = 'x'\n    tensor_parallel_size: int = 1\n"
        "    distributed_executor_backend: str | None = None\n    pipeline_parallel_size: int = 1\n"
        "    newest_option: int = 1\n    kind: Literal['a', 'b'] | None = None\n"
        "    blocks: 'ModelConfig | None' = None\n"
        "    unknown: 'Missing | int' = 3\n    _hidden: int = 1\n"
    )
    (folder / "vllm" / "entrypoints" / "openai" / "cli_args.py").write_text(
        "from dataclasses import dataclass\n@dataclass\nclass FrontendArgs:\n    host: str | None = None\n"
        "    port: int = 1\n    api_key: list[str] | None = None\n"
    )


def _load_with(folder: Path, *sets: str) -> subprocess.CompletedProcess[str]:
    code = (
        "import sys; from raylaunch.config import launch_file as config; from raylaunch.base import errors\n"
        "try: config.load(None, sets=sys.argv[1:], environ={})\n"
        "except errors.LaunchFileError as error: print(*error.problems, sep='\\n')"
    )
    environ = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{Path(__file__).parents[2]}"}
    return subprocess.run(
        [sys.executable, "-c", code, *sets], env=environ, capture_output=True, text=True, check=True, cwd=folder.parent
    )


def test_another_vllm_is_described_once_and_kept(tmp_path: Path) -> None:
    _install(tmp_path / "site", "0.25.7", "")
    first = _load_with(tmp_path / "site", "engine.newest_option=0", "engine.kind=c", "engine.blocks={newest: 1}")
    assert "engine.newest_option: 0 is out of range: it must be at least 1" in first.stdout
    assert 'engine.kind: "c" is not a choice; choose one of a, b' in first.stdout
    assert "engine.blocks.newest: unknown key: vLLM 0.25.7 has none like it" in first.stdout
    assert "engine.dtype: vLLM 0.25.7, which is installed, does not have it; vLLM 0.32.0 does" in first.stdout
    assert "reading the options of vLLM 0.25.7, once" in first.stderr
    assert "warning" not in first.stderr
    second = _load_with(tmp_path / "site", "engine.newest_option=0")
    assert "0 is out of range" in second.stdout
    assert second.stderr == ""
    assert (tmp_path / "site" / "vllm" / "imports").read_text() == "x"


def test_a_vllm_outside_the_known_range_is_a_warning(tmp_path: Path) -> None:
    _install(tmp_path / "site", "0.99.0", "")
    assert "warning: vLLM 0.99.0 is installed; raylaunch knows 0.25 to 0.33" in _load_with(tmp_path / "site").stderr


def test_a_vllm_that_cannot_be_imported_falls_back(tmp_path: Path) -> None:
    _install(tmp_path / "site", "0.26.0", "raise ImportError('libcuda.so.1: no such file')")
    done = _load_with(tmp_path / "site", "engine.sed=1")
    assert "warning: cannot read the options of vLLM 0.26.0 (ImportError: libcuda.so.1: no such file)" in done.stderr
    assert "unknown key; nearest is seed" in done.stdout


@pytest.mark.parametrize(
    ("version", "known"),
    [("0.25.0", True), ("0.33.4", True), ("0.24.9", False), ("0.34.0", False), ("1.0", False), ("dev", False)],
)
def test_supported_versions(version: str, known: bool) -> None:
    assert versions.is_supported(version) is known


def test_integers_are_numbers_but_booleans_are_not() -> None:
    assert [*check({"type": "number"}, 1)] == []
    assert [*check({"type": "number"}, True)] != []
    assert [*check({"type": "integer", "enum": [1, 8]}, True)] != []
    assert [*check({}, {"a": [1]})] == []


def test_a_taken_port_names_its_holder() -> None:
    code = (
        "import socket, sys; s = socket.create_server(('127.0.0.1', 0)); "
        "print(s.getsockname()[1], flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        port = int(holder.stdout.readline())
        for host in ("127.0.0.1", "0.0.0.0", "localhost"):
            with pytest.raises(PortTakenError, match=rf":{port} is taken by python\S* \(pid {holder.pid}\)"):
                ports.check_port_free(host, port)
        holder.communicate("")
    ports.check_port_free("127.0.0.1", port)


def test_a_free_port_stays_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    ports.check_port_free("127.0.0.1", port)
    ports.check_port_free("127.0.0.1", port)


def test_a_foreign_address_is_reported() -> None:
    with pytest.raises(PortTakenError, match=r"192\.0\.2\.1:8080: Cannot assign"):
        ports.check_port_free("192.0.2.1", 8080)
    with pytest.raises(PortTakenError, match="does not resolve"):
        ports.check_port_free("nowhere.invalid", 8080)
