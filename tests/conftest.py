"""What every test gets: a home of its own, an environment without the user's settings, and models to serve."""

import fcntl
import os
import signal
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from raylaunch.engine.rehearsal import standin_model
from raylaunch.weights import smollm2

CACHE = Path(__file__).resolve().parent.parent / ".cache" / "models"
"""Kept between runs and ignored by git: converting the default model takes half a minute."""
_REAL_HOME = Path.home()
_STRIPPED = (
    "RAYLAUNCH_",
    "RAY_ADDRESS",
    "RAY_AUTH",
    "HF_",
    "TRANSFORMERS_OFFLINE",
    "VLLM_",
    "OPENAI_",
    "PYTHONDONTWRITE",
)


def _strip_environment() -> None:
    for name in [name for name in os.environ if name.startswith(_STRIPPED)]:
        del os.environ[name]


# A shell starts its background jobs with SIGINT ignored, and they hand that on to the children that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
_strip_environment()  # before a session fixture runs, too
# Hundreds of tests start processes: compiling the package anew in each took as long as what they test.
sys.dont_write_bytecode = False

# `make quick` asks a fifth of the examples of every property, `make test` all of them.
settings.register_profile("quick", max_examples=20)


# ---- two processes: `make test` runs pytest-xdist with --dist loadgroup

_HEAVY = frozenset({"engine", "ray", "root"})
_LONGEST_FIRST = ("rig", "e2e", "weights", "serve")
"""Rooms whose heavy tests take minutes: two processes end soonest together if these begin first."""
_ROOMS = Path(__file__).parent


def _rank(item: pytest.Item) -> tuple[int, int]:
    """Where a test stands in a run: light ones, then heavy ones room by room, then those that run alone."""
    if item.get_closest_marker("alone"):
        return 2, 0
    if not _HEAVY.intersection(marker.name for marker in item.iter_markers()):
        return 0, 0
    room = item.path.relative_to(_ROOMS).parts[0]
    return 1, _LONGEST_FIRST.index(room) if room in _LONGEST_FIRST else len(_LONGEST_FIRST)


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist's, which reads the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep a room's heavy tests in one process, for they share hosts, networks and Ray clusters."""
    if not config.pluginmanager.hasplugin("xdist"):
        return
    items.sort(key=_rank)  # stable: files stay together
    for item in items:
        kind, _ = _rank(item)
        if kind:
            room = item.path.relative_to(_ROOMS).parts[0]
            item.add_marker(pytest.mark.xdist_group("alone" if kind == 2 else room))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Refuse to spread a room's heavy tests over both processes."""
    if "PYTEST_XDIST_WORKER" in os.environ and any(_rank(item)[0] and "@" not in item.nodeid for item in session.items):
        raise pytest.UsageError("heavy tests need --dist loadgroup, and a pytest that pyproject.toml allows")


@pytest.hookimpl(wrapper=True, tryfirst=True)  # outside of pytest-timeout's: waiting for the lock is no part of a test
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Run a test marked `alone` while the other process runs none."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return (yield)
    CACHE.parent.mkdir(exist_ok=True)
    with (CACHE.parent / "alone.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX if item.get_closest_marker("alone") else fcntl.LOCK_SH)
        try:
            return (yield)
        finally:
            fcntl.flock(lock, fcntl.LOCK_UN)  # a forked child may hold the file open


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give the test a home of its own, and fail it if it (or a child of its) wrote to ~/.raylaunch in spite of
    RAYLAUNCH_HOME.

    Caches and settings of other tools stay the user's: vLLM's compiled code, pip's mirrors.
    """
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CACHE_HOME", os.environ.get("XDG_CACHE_HOME", str(_REAL_HOME / ".cache")))
    monkeypatch.setenv("XDG_CONFIG_HOME", os.environ.get("XDG_CONFIG_HOME", str(_REAL_HOME / ".config")))
    monkeypatch.setenv("HF_HOME", str(home / "huggingface"))
    monkeypatch.setenv("RAYLAUNCH_HOME", str(home / "state"))
    yield
    assert not (home / ".raylaunch").exists(), "this test wrote to the user's ~/.raylaunch"


@pytest.fixture(scope="session")
def smollm2_folder() -> Path:
    """The default model (SmolLM2-135M-Instruct), converted from its PyPI package; read-only."""
    folder = CACHE / "SmolLM2-135M-Instruct"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "SmolLM2.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            smollm2.build(CACHE / "SmolLM2.convert", report=print).rename(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of a few MB: 8 heads, 8 KV heads, 8 layers, float32, its tokenizer with a chat template."""
    shape = standin_model.Shape(heads=8, kv_heads=8, layers=8)
    return standin_model.write_standin(tmp_path_factory.mktemp("models") / "tiny-llama", shape)
