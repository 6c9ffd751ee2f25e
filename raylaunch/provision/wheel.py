"""This installation of raylaunch as a wheel: every host of a cluster gets the same code, released or not."""

import base64
import hashlib
import zipfile
from importlib.metadata import Distribution, distribution
from pathlib import Path

from raylaunch import __version__

_FILE_TIME = (1980, 1, 1, 0, 0, 0)
"""The same for every file, so that equal content gives an equal wheel."""
_WHEEL = "Wheel-Version: 1.0\nGenerator: raylaunch\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def write_wheel(folder: Path) -> Path:
    """Write the wheel into `folder`, remove older ones there, and return its path."""
    package = Path(__file__).parents[1]
    info = f"raylaunch-{__version__}.dist-info"
    installed = distribution("raylaunch")
    files = {
        f"raylaunch/{path.relative_to(package)}": path.read_bytes()
        for path in sorted(package.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
    files[f"{info}/METADATA"] = _read_metadata(installed).encode()
    files[f"{info}/WHEEL"] = _WHEEL.encode()
    files[f"{info}/entry_points.txt"] = (installed.read_text("entry_points.txt") or "").encode()
    records = [f"{name},sha256={_digest(content)},{len(content)}" for name, content in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*records, f"{info}/RECORD,,", ""]).encode()
    for old in folder.glob("raylaunch-*.whl"):
        old.unlink()
    wheel = folder / f"raylaunch-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, _FILE_TIME)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content)
    return wheel


def _read_metadata(installed: Distribution) -> str:
    """Name, version and dependencies: METADATA of an installed wheel, PKG-INFO of an editable installation.

    Raises:
        ValueError: neither exists.
    """
    for name in ("METADATA", "PKG-INFO"):
        if text := installed.read_text(name):
            return text
    raise ValueError("the installed raylaunch has no metadata")


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
