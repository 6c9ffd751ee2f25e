"""A unit runs the very same launch, and holds no secret."""

from pathlib import Path

import pytest

from raylaunch.base.errors import LaunchFileError
from raylaunch.serve.systemd_unit import make_unit
from tests.config import launches


def make(tmp_path: Path, *sets: str, **environ: str) -> str:
    launch = launches.load(launches.write(tmp_path), *sets)
    return make_unit(launch, sets=sets, rehearse=False, home=tmp_path, environ=environ)


def test_numbers_are_no_secrets(tmp_path: Path) -> None:
    unit = make(tmp_path, "engine.max_num_batched_tokens=8192", "server.enable_prompt_tokens_details=true")
    assert "engine.max_num_batched_tokens=8192" in unit
    assert "engine.hf_token=true" in make(tmp_path, "engine.hf_token=true")
    for secret in (
        *("server.api_key=sk-1", "server.api_key=123456", "server.api_key=on"),
        *("engine.hf_token=abc", "engine.tokenizer=hf_" + "a" * 30),
    ):
        with pytest.raises(LaunchFileError, match="this is a secret"):
            make(tmp_path, secret)


def test_variables_and_the_folder_come_along(tmp_path: Path) -> None:
    """Those that change the launch; secrets are named, not written."""
    unit = make(
        tmp_path, RAYLAUNCH_ENGINE__SEED="7", NCCL_DEBUG="INFO", VLLM_USE_V1="1", HF_HOME="/a b", EDITOR="vi",
        SSL_CERT_FILE="/ca.pem", LD_LIBRARY_PATH="/l", PYTORCH_CUDA_ALLOC_CONF="x:y", PATH="/bin",
        HUGGING_FACE_HUB_TOKEN="hf_hush",
        RAYLAUNCH_SERVER__API_KEY="sk-hush-hush", HF_TOKEN="hf_hush", http_proxy="http://u:hush@p:1",
    )  # fmt: skip
    for line in (
        *("RAYLAUNCH_ENGINE__SEED=7", "NCCL_DEBUG=INFO", "VLLM_USE_V1=1", '"HF_HOME=/a b"', "SSL_CERT_FILE=/ca.pem"),
        *("LD_LIBRARY_PATH=/l", "PYTORCH_CUDA_ALLOC_CONF=x:y", "PATH=/bin"),
    ):
        assert f"\nEnvironment={line}\n" in unit
    assert f"\nWorkingDirectory={Path.cwd()}\n" in unit
    assert "hush" not in unit
    assert "EDITOR" not in unit
    assert "HF_TOKEN, HUGGING_FACE_HUB_TOKEN, RAYLAUNCH_SERVER__API_KEY, http_proxy" in unit
