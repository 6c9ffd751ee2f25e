"""Make .venv and install raylaunch into it with its engine for CPU. Run by `make`; needs Python's own library only.

The trap is PyTorch: vLLM for CPU wants the CPU build (local version "+cpu"), which some machines' pip is set up to
find, and which elsewhere lies in PyTorch's own index, while PyPI has the CUDA build of several GB.
Usage: install.py EXTRA...
"""

import fcntl
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
"""PyTorch's own index of CPU builds, as its installation page names it."""
UNWANTED = ("torchvision", "torchaudio", "torchcodec", "triton")
"""vLLM depends on them, and they do harm here: the first three are CUDA builds that break `import transformers` beside
a CPU PyTorch; triton costs 1 GB of disk and 130 MB of memory a process. Nothing on CPU uses them
(seen with vLLM 0.32.0)."""
_QUICK = ("--timeout", "15", "--retries", "1")
"""pip's own defaults wait minutes for an index that is out of reach."""
_PROBE_S = 30
_HEARTBEAT_S = 15.0


class InstallError(Exception):
    """The install cannot go on; the text is why, and what to do."""


@dataclass(frozen=True)
class Venv:
    """A virtual environment, its pip, and the log of pip's output."""

    folder: Path

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    @property
    def log(self) -> Path:
        """What pip printed."""
        return self.folder / "install.log"

    def make(self) -> None:
        """Make it, anew where an earlier attempt broke off before pip was in it."""
        asked = [str(self.python), "-m", "pip", "--version"]
        if self.python.exists() and subprocess.run(asked, capture_output=True, check=False).returncode == 0:
            return
        report(f"making {self.folder.name} with Python {sys.version.split()[0]}")
        made = subprocess.run(
            [sys.executable, "-m", "venv", "--clear", self.folder], capture_output=True, text=True, check=False
        )
        if made.returncode:
            raise InstallError(f"`python -m venv` failed:\n{made.stdout}{made.stderr}")

    def find_version(self, package: str) -> str | None:
        """Version of an installed package, None where it is not installed."""
        code = f"import importlib.metadata as m; print(m.version({package!r}))"
        asked = subprocess.run([self.python, "-c", code], capture_output=True, text=True, check=False)
        return asked.stdout.strip() or None

    def drop_half_installed(self) -> None:
        """Forget packages that a killed pip left without their file list: it can neither use nor replace them."""
        for info in self.folder.glob("lib/python*/site-packages/*.dist-info"):
            if not (info / "RECORD").exists():
                shutil.rmtree(info)

    def ask_pip(self, *arguments: str, timeout_s: float = _PROBE_S) -> tuple[bool, str]:
        """Run pip quietly; whether it succeeded, and what it printed."""
        command = [str(self.python), "-m", "pip", "--disable-pip-version-check", *arguments]
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=timeout_s
            )
        except subprocess.TimeoutExpired:
            return False, f"pip did not answer within {timeout_s:.0f} s"
        return done.returncode == 0, done.stdout + done.stderr

    def run_pip(self, *arguments: str) -> None:
        """Run pip with its output in the log, and print a line of progress every 15 s.

        Raises:
            InstallError: pip failed.
        """
        command = [str(self.python), "-m", "pip", "--disable-pip-version-check", *arguments]
        began = time.monotonic()
        start = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            pip = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
            try:
                while not _ended(pip, _HEARTBEAT_S):
                    report(f"  {time.monotonic() - began:4.0f} s: {_last_step(self.log)}")
            finally:
                if pip.poll() is None:
                    pip.terminate()
                    pip.wait()
        if pip.returncode:
            printed = self.log.read_bytes()[start:].decode(errors="replace").splitlines()
            ended = f"exit status {pip.returncode}" if pip.returncode > 0 else f"killed by signal {-pip.returncode}"
            raise InstallError(f"pip failed ({ended}):\n" + "\n".join(f"  | {line[:200]}" for line in printed[-8:]))


def find_torch(venv: Venv, version: str, cpu_index: str = PYTORCH_CPU_INDEX) -> list[str]:
    """Where the CPU build of PyTorch comes from: pip's own sources if it lies there, else PyTorch's index.

    Args:
        version: of PyTorch, without "+cpu".
        cpu_index: URL of PyTorch's index.

    Returns:
        Options for pip, beside its own settings.

    Raises:
        InstallError: it is in neither.
    """
    wanted = f"torch=={version}+cpu"
    found, _ = venv.ask_pip("install", "--dry-run", "--no-deps", "--ignore-installed", *_QUICK, wanted, timeout_s=600)
    if found:
        return []
    reached, versions = venv.ask_pip(
        "index", "versions", "--index-url", cpu_index, "--timeout", "4", "--retries", "0", "torch"
    )
    if reached and f"{version}+cpu" in versions:
        return ["--extra-index-url", cpu_index]
    raise InstallError(
        f"the CPU build of PyTorch ({wanted}) is neither in pip's own sources nor to be had from {cpu_index}\n"
        "what to do: make that index reachable from this machine (a proxy: https_proxy), or give pip a mirror of it:\n"
        "  PIP_EXTRA_INDEX_URL=https://<mirror of PyTorch's CPU wheels> make serve\n"
        "  PIP_FIND_LINKS=/folder/with/the/wheel make serve"
    )


def install(venv: Venv, extras: Sequence[str], torch_version: str) -> None:
    """Install what pyproject.toml names into `venv`, from nothing or from where an earlier install broke off.

    Raises:
        InstallError: it could not be done.
    """
    venv.make()
    venv.drop_half_installed()
    if venv.find_version("torch") != f"{torch_version}+cpu":
        sources = find_torch(venv, torch_version)
        report(f"installing PyTorch {torch_version} for CPU from {sources[-1] if sources else 'pip’s own sources'}")
        venv.run_pip("install", *sources, f"torch=={torch_version}+cpu")
    report("installing raylaunch, Ray and vLLM for CPU: minutes, about 4 GB of disk")
    venv.run_pip("install", "-e", f"{ROOT}[{','.join(extras)}]")
    venv.run_pip("uninstall", "-y", *UNWANTED)


def main(extras: Sequence[str]) -> int:
    """Install with these extras and leave a stamp for make; the exit status."""
    venv = Venv(ROOT / ".venv")
    began = time.monotonic()
    try:
        with _alone():
            install(venv, extras, read_torch_version())
            for stamp in {"cpu", *extras}:
                (venv.folder / f".have-{stamp}").touch()
    except InstallError as error:
        print(f"error: {error}\nfull log: {venv.log}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted: the next make goes on from here", file=sys.stderr)
        return 130
    report(f"installed in {time.monotonic() - began:.0f} s")
    return 0


def read_torch_version() -> str:
    """PyTorch's version out of raylaunch/versions.py, the one place that names it; importing needs the package."""
    text = (ROOT / "raylaunch" / "base" / "versions.py").read_text()
    found = re.search(r'^TORCH = "(.+)"$', text, re.MULTILINE)
    if found is None:
        raise InstallError("raylaunch/versions.py names no TORCH")
    return found[1]


def report(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def _alone() -> Iterator[None]:
    """One install of this folder at a time."""
    folder = os.open(ROOT, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report("another make is installing here: waiting for it")
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _ended(process: "subprocess.Popen[bytes]", timeout_s: float) -> bool:
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        return False
    return True


def _last_step(log: Path) -> str:
    """pip's latest step, without the sizes and addresses that follow it."""
    steps = re.findall(rb"^ *(Collecting \S+|Downloading \S+|Installing collected packages)", log.read_bytes(), re.M)
    return steps[-1].decode(errors="replace")[:100] if steps else "starting"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
