"""Exit codes, import weight, and bug reports."""

import importlib.resources
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from raylaunch.cli import main
from raylaunch.config import launch_file

HEAVY = ("asyncio", "ray", "vllm", "torch", "openai", "huggingface_hub", "pydantic", "yaml", "rich")


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main.main(list(arguments))
    return int(ended.value.code or 0)


def test_ctrl_c_while_modules_are_imported_prints_no_traceback() -> None:
    """The first tenth of a second, or more on a busy machine."""
    script = (
        "import os, signal, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'raylaunch.cli.main':\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n"
        "from raylaunch.__main__ import main\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")


def test_help_imports_nothing_heavy() -> None:
    """`raylaunch --help` starts with click and the standard library alone."""
    script = (
        "import sys\nfrom raylaunch.cli import main as cli\n"
        "try:\n    cli.main(['--help'])\nexcept SystemExit:\n    pass\n"
        f"heavy = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)


def test_help_cuts_no_sentence(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each command's line fits in 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    assert run("--help") == 0
    assert [line for line in capsys.readouterr().out.splitlines() if line.endswith("...") and "ARGS" not in line] == []


def test_supervisor_imports_no_engine() -> None:
    """What `serve` imports in its own process holds no PyTorch and no vLLM."""
    script = (
        "import sys, raylaunch.serve.supervisor, raylaunch.serve.driver, raylaunch.engine.rehearsal.plan\n"
        "heavy = [name for name in ('torch', 'vllm', 'transformers') if name in sys.modules]\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_version_lists_every_package(capsys: pytest.CaptureFixture[str]) -> None:
    """One line each, the engine included."""
    assert run("--version") == 0
    shown = capsys.readouterr().out
    for package in ("raylaunch", "ray", "vllm", "torch", "huggingface_hub", "openai", "nvidia-ml-py"):
        assert f"\n{package} " in f"\n{shown}"


def test_wrong_command_line_is_2(capsys: pytest.CaptureFixture[str]) -> None:
    """Usage errors are click's: exit 2."""
    assert run("serve", "--no-such-flag") == 2
    assert "no-such-flag" in capsys.readouterr().err
    assert run("ask", "  ") == 2


def test_expected_failure_is_1_with_its_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong launch file: the problem with its place, no traceback."""
    launch = tmp_path / "launch.yaml"
    launch.write_text("engine:\n  tensor_paralel_size: 4\n")
    assert run("serve", str(launch)) == 1
    shown = capsys.readouterr().err
    assert "launch.yaml:2" in shown
    assert "tensor_parallel_size" in shown
    assert "Traceback" not in shown


def test_bug_is_3_with_a_report_and_no_secrets(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An unexpected exception: exit 3, a report with the traceback, the environment's secrets not in it."""
    monkeypatch.setenv("RAYLAUNCH_HOME", str(tmp_path))
    monkeypatch.setenv("RAYLAUNCH_SERVER__API_KEY", "sk-very-secret")

    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("made by a test")

    monkeypatch.setattr(launch_file, "load", fail)
    assert run("config") == 3
    [report] = (tmp_path / "bugs").iterdir()
    assert str(report) in capsys.readouterr().err
    text = report.read_text()
    assert "ZeroDivisionError: made by a test" in text
    assert "sk-very-secret" not in text


def test_config_shows_values_sources_and_no_secrets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where each value came from; a key is masked in both forms."""
    monkeypatch.setenv("RAYLAUNCH_SERVER__API_KEY", "sk-very-secret")
    assert run("config", "--set", "engine.max_model_len=512") == 0
    plain = capsys.readouterr().out
    assert "engine.max_model_len" in plain
    assert "512" in plain
    assert "RAYLAUNCH_SERVER__API_KEY" in plain
    assert run("config", "--json") == 0
    assert "sk-very-secret" not in plain + capsys.readouterr().out


def test_schema_is_printed_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    """stdout is the shipped schema and nothing else."""
    assert run("schema") == 0
    assert (
        capsys.readouterr().out
        == importlib.resources.files("raylaunch.data").joinpath("launch.schema.json").read_text()
    )
