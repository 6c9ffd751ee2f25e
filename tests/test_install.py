"""The installer: finds the CPU build of PyTorch, reports where it is missing, resumes, hides no error.

Real pip against package indexes of this test's own; the packages in them are a few hundred bytes.
"""

import importlib.util
import os
import pty
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
TORCH = "1.2.3"


pytestmark = pytest.mark.xdist_group("installer")  # they share an environment that takes ten seconds to make


def load_installer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("install", ROOT / "tools" / "install.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["install"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


install = load_installer()


def make_wheel(folder: Path, name: str, version: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", f"{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return path


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


@contextmanager
def serve_index(folder: Path) -> Iterator[str]:
    """A package index over HTTP: folders of wheels, listed as a web server lists them."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def venv(tmp_path_factory: pytest.TempPathFactory) -> "install.Venv":
    made = install.Venv(tmp_path_factory.mktemp("installer") / ".venv")
    made.make()
    return made


@pytest.fixture(autouse=True)
def _not_under_make(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def _only_these_indexes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """pip knows one index, which has the CUDA build alone, as PyPI does."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    make_wheel(tmp_path / "pypi" / "torch", "torch", TORCH)
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "pypi").as_uri())


@pytest.mark.slow
def test_local_cpu_build_is_taken(venv: "install.Venv", tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip's own settings name a folder with it: no other index is asked."""
    make_wheel(tmp_path / "wheels", "torch", f"{TORCH}+cpu")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    assert install.find_torch(venv, TORCH, cpu_index="http://127.0.0.1:9") == []


@pytest.mark.slow
def test_cpu_build_comes_from_pytorch_s_index(venv: "install.Venv", tmp_path: Path) -> None:
    make_wheel(tmp_path / "cpu" / "torch", "torch", f"{TORCH}+cpu")
    with serve_index(tmp_path / "cpu") as url:
        sources = install.find_torch(venv, TORCH, cpu_index=url)
        assert sources == ["--extra-index-url", url]
        venv.run_pip("install", "--no-deps", *sources, f"torch=={TORCH}+cpu")
    assert venv.find_version("torch") == f"{TORCH}+cpu"
    venv.run_pip("uninstall", "-y", "torch")


@pytest.mark.slow
@pytest.mark.parametrize("index", ["out of reach", "without this version"])
def test_no_cpu_build_anywhere_is_reported_soon(venv: "install.Venv", tmp_path: Path, index: str) -> None:
    make_wheel(tmp_path / "cpu" / "torch", "torch", "9.9+cpu")
    with serve_index(tmp_path / "cpu") as url:
        began = time.monotonic()
        with pytest.raises(install.InstallError, match="neither in pip's own sources") as caught:
            install.find_torch(venv, TORCH, cpu_index=url if index != "out of reach" else "http://127.0.0.1:9")
        assert time.monotonic() - began < 60
    assert "PIP_FIND_LINKS" in str(caught.value)


@pytest.mark.slow
def test_pip_failure_shows_its_last_lines(venv: "install.Venv") -> None:
    with pytest.raises(install.InstallError, match="No matching distribution found for raylaunch-no-such-thing"):
        venv.run_pip("install", "raylaunch-no-such-thing")


@pytest.mark.slow
def test_half_installed_package_is_dropped(venv: "install.Venv", tmp_path: Path) -> None:
    """pip was killed before it wrote a package's file list: the next install replaces it."""
    wheel = make_wheel(tmp_path, "interrupted", "1.0")
    venv.run_pip("install", "--no-deps", str(wheel))
    (record,) = venv.folder.glob("lib/python*/site-packages/interrupted-1.0.dist-info/RECORD")
    record.unlink()
    venv.drop_half_installed()
    assert venv.find_version("interrupted") is None
    venv.run_pip("install", "--no-deps", str(wheel))
    assert venv.find_version("interrupted") == "1.0"


@pytest.mark.slow
def test_half_made_environment_is_made_anew(tmp_path: Path) -> None:
    """Killed between the interpreter and pip."""
    broken = install.Venv(tmp_path / ".venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", broken.folder], check=True)
    broken.make()
    assert broken.ask_pip("--version")[0]


def test_torch_version_is_read_without_importing() -> None:
    from raylaunch.base import versions

    assert install.read_torch_version() == versions.TORCH


# ---- finding a Python


def find_python(folder: Path, scripts: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    """Run tools/find-python where only these commands exist beside the shell."""
    for name, text in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    return subprocess.run(
        ["/bin/sh", ROOT / "tools" / "find-python"],
        env={"PATH": str(folder)}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_real_python_is_found(tmp_path: Path) -> None:
    real = getattr(sys, "_base_executable", sys.executable)
    done = find_python(tmp_path, {"python3": "exit 1", "python3.13": f'exec {real} "$@"'})
    assert done.stdout.strip() == str(tmp_path / "python3.13")


def test_no_python_is_reported_with_a_command(tmp_path: Path) -> None:
    done = find_python(tmp_path, {"python3": "exit 1"})
    assert done.returncode == 1
    assert "apt-get install -y python3 python3-venv" in done.stderr


def test_missing_venv_is_reported_with_a_command(tmp_path: Path) -> None:
    """Debian's python3 without python3-venv: the version is fine, ensurepip is not there."""
    done = find_python(tmp_path, {"python3": 'case "$2" in *ensurepip*) exit 1;; esac; exit 0'})
    assert done.returncode == 1
    assert "apt-get install -y python3-venv" in done.stderr


# ---- the foreground


PATIENT = """
import signal, sys, time
signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
print("up", flush=True)
time.sleep(99)
"""


def test_ctrl_c_under_make_exits_zero(tmp_path: Path) -> None:
    """A terminal's Ctrl-C reaches the command, which takes it as a request to stop; make then exits 0, not 130."""
    (tmp_path / "patient.py").write_text(PATIENT)
    (tmp_path / "Makefile").write_text(
        f"serve:\n\t@{sys.executable} {ROOT}/tools/foreground.py {sys.executable} patient.py\n"
    )
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        os.execvp("make", ["make", "serve"])
    try:
        seen = b""
        while b"up" not in seen:
            seen += os.read(terminal, 100)
        os.write(terminal, b"\x03")
        _, status = os.waitpid(pid, 0)
    finally:
        os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_reach_the_command(number: signal.Signals, tmp_path: Path) -> None:
    """Without a terminal: what the wrapper gets it passes on, and exits as the command did."""
    code = PATIENT.replace("SIGINT", number.name).replace("exit(0)", "exit(7)")
    running = subprocess.Popen(
        [sys.executable, ROOT / "tools" / "foreground.py", sys.executable, "-c", code],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert running.stdout is not None
    assert running.stdout.readline() == b"up\n"
    running.send_signal(number)
    assert running.wait(60) == 7


# ---- make


def test_make_has_nothing_to_do_twice() -> None:
    """With the stamps in place, neither environment is touched again."""
    for stamp in (".venv/.have-cpu", ".venv/.have-dev"):
        if (ROOT / stamp).exists() and (ROOT / stamp).stat().st_mtime > (ROOT / "pyproject.toml").stat().st_mtime:
            assert subprocess.run(["make", "-q", stamp], cwd=ROOT, check=False).returncode == 0


def test_ci_runs_the_readme_s_command() -> None:
    script = (ROOT / ".ci" / "run").read_text().splitlines()
    assert script[-1].endswith("exec make test")
    assert "make test" in (ROOT / "README.md").read_text()
