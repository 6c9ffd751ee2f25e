"""What every test gets: a home of its own, an environment without the user's settings, and models to serve."""

import fcntl
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from raylaunch.engine.rehearsal import standin_model
from raylaunch.weights import smollm2

CACHE = Path(__file__).resolve().parent.parent / ".cache" / "models"
"""Kept between runs and ignored by git: converting the default model takes half a minute."""
_REAL_HOME = Path.home()
_STRIPPED = ("RAYLAUNCH_", "RAY_ADDRESS", "RAY_AUTH", "HF_", "TRANSFORMERS_OFFLINE", "VLLM_", "OPENAI_")


def _strip_environment() -> None:
    for name in [name for name in os.environ if name.startswith(_STRIPPED)]:
        del os.environ[name]


# A shell starts its background jobs with SIGINT ignored, and they hand that on to the children that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
_strip_environment()  # before a session fixture runs, too


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
    """The default model (SmolLM2-135M-Instruct), converted from its PyPI package; nobody may write in it."""
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
