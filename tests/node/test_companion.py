"""What a node finds of a draft model, a tokenizer and a LoRA adapter. Real files."""

from pathlib import Path

import pytest

from raylaunch.node.companion import Companion, CompanionKind, inspect_companion
from tests.weights.conftest import make_safetensors

FILES = {
    CompanionKind.DRAFT: {"config.json": b"{}", "model.safetensors": make_safetensors(1024)},
    CompanionKind.TOKENIZER: {"tokenizer.json": b"{}"},
    CompanionKind.ADAPTER: {"adapter_config.json": b"{}", "adapter_model.safetensors": make_safetensors(1024)},
}


def fill(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True)
    for name, body in files.items():
        (folder / name).write_bytes(body)


@pytest.mark.parametrize("kind", CompanionKind)
def test_each_file_that_the_loader_needs(tmp_path: Path, kind: CompanionKind) -> None:
    """Complete, then without each of its files, then not there."""
    complete = tmp_path / "complete"
    fill(complete, FILES[kind])
    assert inspect_companion(Companion("k", kind, str(complete))).problem == ""
    for name in FILES[kind]:
        folder = tmp_path / f"without-{name}"
        fill(folder, {other: body for other, body in FILES[kind].items() if other != name})
        assert inspect_companion(Companion("k", kind, str(folder))).problem
    found = inspect_companion(Companion("k", kind, "/nowhere/at/all"))
    assert (found.exists, found.problem) == (False, "/nowhere/at/all does not exist")


def test_a_truncated_adapter(tmp_path: Path) -> None:
    body = FILES[CompanionKind.ADAPTER]["adapter_model.safetensors"]
    fill(tmp_path / "a", FILES[CompanionKind.ADAPTER] | {"adapter_model.safetensors": body[:-1]})
    assert "is truncated" in inspect_companion(Companion("k", CompanionKind.ADAPTER, str(tmp_path / "a"))).problem


def test_the_hub_cache_counts_where_the_folder_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A complete snapshot only."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    wanted = Companion("k", CompanionKind.DRAFT, "/nowhere/some--draft", "some/draft")
    assert not inspect_companion(wanted).in_hub_cache
    snapshot = tmp_path / "models--some--draft" / "snapshots" / "abc"
    fill(snapshot, FILES[CompanionKind.DRAFT])
    assert inspect_companion(wanted).in_hub_cache
    (snapshot / "model.safetensors").unlink()
    assert not inspect_companion(wanted).in_hub_cache
