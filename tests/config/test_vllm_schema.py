"""The options tables: the shipped one is vLLM's, another vLLM is read once in a child and kept."""

import importlib.resources
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from raylaunch.base import ports, versions
from raylaunch.base.errors import PortTakenError
from raylaunch.config import vllm_schema
from raylaunch.config.vllm_schema import Option, check


@pytest.mark.engine
def test_shipped_table_is_the_installed_vllms() -> None:
    installed = (versions.find_version("vllm") or "").partition("+")[0]
    assert installed == versions.VLLM, "`make test` installs the pinned vLLM"
    shipped = importlib.resources.files("raylaunch.data") / f"vllm-{versions.VLLM}.json"
    # Regenerate with: python -m raylaunch.engine.describe_options > raylaunch/data/vllm-<version>.json
    assert vllm_schema.describe_in_child() == shipped.read_text()


def test_shipped_table_knows_what_a_launch_needs() -> None:
    table = vllm_schema.read_shipped()
    assert table.vllm == versions.VLLM
    assert table.engine["tensor_parallel_size"] == Option(("int",), ge=1)
    assert table.engine["gpu_memory_utilization"] == Option(("float",), gt=0, le=1)
    assert "float16" in table.engine["dtype"].choices
    assert table.engine["quantization"].choices == ()
    assert table.server["api_key"] == Option(("list", "null"), items=Option(("str",)))
    for options_of in (table.engine, table.server, *table.classes.values()):
        for option in options_of.values():
            assert option.config is None or option.config in table.classes
            assert option.make_example()


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
    environ = os.environ | {"PYTHONPATH": str(folder)}
    return subprocess.run(
        [sys.executable, "-c", code, *sets], env=environ, capture_output=True, text=True, check=True, cwd=folder.parent
    )


def test_another_vllm_is_described_once_and_kept(tmp_path: Path) -> None:
    _install(tmp_path / "site", "0.25.7", "")
    first = _load_with(tmp_path / "site", "engine.newest_option=0", "engine.kind=c", "engine.blocks={newest: 1}")
    assert "engine.newest_option: 0 is out of range: it must be at least 1" in first.stdout
    assert 'engine.kind: "c" is not a choice; choose one of a, b' in first.stdout
    assert "engine.blocks.newest: unknown key; nearest is newest_option" in first.stdout
    assert "engine.dtype: unknown key: vLLM 0.25.7 has none like it" in first.stdout  # of the demo: gone in this one
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


def test_whole_numbers_do_for_numbers_but_truth_values_do_not() -> None:
    assert [*check(Option(("float",)), 1)] == []
    assert [*check(Option(("float",)), True)] != []
    assert [*check(Option(("int",), choices=(1, 8)), True)] != []
    assert [*check(Option(("any",)), object)] == []


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


def test_an_address_of_elsewhere_is_told() -> None:
    with pytest.raises(PortTakenError, match=r"192\.0\.2\.1:8080: Cannot assign"):
        ports.check_port_free("192.0.2.1", 8080)
    with pytest.raises(PortTakenError, match="does not resolve"):
        ports.check_port_free("nowhere.invalid", 8080)
