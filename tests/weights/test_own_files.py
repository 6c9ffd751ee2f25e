"""Files that no pull brought stay as they are, whatever is asked. Real folders, real client, real HTTP."""

import asyncio
import json
import os
import subprocess
from pathlib import Path

import pytest

from raylaunch.base.errors import WeightsError
from raylaunch.node.manifest import MANIFEST, FileFacts, Manifest
from raylaunch.weights import store
from raylaunch.weights.agents import LocalAgents
from raylaunch.weights.fetch_local import fetch_model
from raylaunch.weights.own_files import OwnFilesChoice, OwnFilesError
from raylaunch.weights.verification import check, remove
from tests.hub_server import Hub

from .conftest import REPO, SHARDS, make_safetensors, run_pull, run_weights, wanted_of

NOWHERE = "http://127.0.0.1:9"


def fill(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, body in files.items():
        (folder / name).write_bytes(body)


def read_all(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != MANIFEST}


@pytest.fixture
def tuned(model_hub: Hub, folder: Path) -> dict[str, bytes]:
    """A fine-tune in the folder: a shard of equal size with other content, a tokenizer of another size."""
    files = wanted_of(model_hub) | {SHARDS[0]: make_safetensors(4096), "tokenizer.json": b'{"chat": 1}'}
    fill(folder, files)
    return files


def test_fine_tune_is_a_question(folder: Path, tuned: dict[str, bytes], tmp_path: Path) -> None:
    """Without a terminal: exit 1, with names, sizes and a command for each answer; no file changed."""
    launch = tmp_path / "my launch.yaml"
    launch.write_text(f"model: {{repo: {REPO}, path: {folder}}}\n")
    done = run_weights(launch, "pull")
    assert done.returncode == 1
    text = " ".join(done.stderr.split())
    for part in (f"{SHARDS[0]} ({len(tuned[SHARDS[0]]):,} bytes, other content)", "tokenizer.json (11 bytes, not 2)"):
        assert part in text
    for option in ("--adopt", "--replace"):
        assert f"raylaunch weights pull '{launch}' {option}" in text
    assert read_all(folder) == tuned
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_adopt_takes_the_folder_as_it_is(model_hub: Hub, folder: Path, tuned: dict[str, bytes]) -> None:
    """A manifest is written; check agrees, another pull asks nothing, and rm removes nothing."""
    run_pull(folder, model_hub.url, OwnFilesChoice.ADOPT)
    model_hub.requests.clear()
    run_pull(folder, model_hub.url)
    assert model_hub.requests == []
    assert asyncio.run(check(REPO, None, folder, LocalAgents(folder), fast=False)).is_complete
    with pytest.raises(WeightsError, match="no pull is known to have fetched"):
        asyncio.run(remove(LocalAgents(folder)))
    assert read_all(folder) == tuned


def test_adopt_of_an_incomplete_folder_names_what_is_missing(model_hub: Hub, folder: Path) -> None:
    fill(folder, {"config.json": b"{}"})
    with pytest.raises(WeightsError, match=r"not a complete model .*weights are missing"):
        run_pull(folder, model_hub.url, OwnFilesChoice.ADOPT)


def test_replace_moves_the_old_files_aside(model_hub: Hub, folder: Path, tuned: dict[str, bytes]) -> None:
    run_pull(folder, model_hub.url, OwnFilesChoice.REPLACE)
    assert read_all(folder) == wanted_of(model_hub)
    [kept] = folder.parent.glob(f"{folder.name}.replaced-*")
    assert read_all(kept) == {name: tuned[name] for name in (SHARDS[0], "tokenizer.json")}


def test_weights_under_other_names_are_a_question(model_hub: Hub, folder: Path) -> None:
    """A fine-tune in one file where the repo has shards: no file collides, but the folder would hold two models."""
    fill(folder, {"config.json": model_hub.files["config.json"], "model.safetensors": make_safetensors(1024)})
    with pytest.raises(OwnFilesError, match=r"model\.safetensors \([\d,]+ bytes, not in the repo\)"):
        run_pull(folder, model_hub.url)
    assert len(read_all(folder)) == 2


@pytest.mark.parametrize("kind", ["folder", "broken link", "link"])
def test_what_is_no_plain_file_stays(model_hub: Hub, folder: Path, tmp_path: Path, kind: str) -> None:
    (tmp_path / "target").write_text("mine")
    folder.mkdir(parents=True)
    place = folder / "config.json"
    if kind == "folder":
        place.mkdir()
    else:
        place.symlink_to(tmp_path / ("target" if kind == "link" else "nowhere"))
    with pytest.raises(OwnFilesError, match=r"config\.json"):
        run_pull(folder, model_hub.url)
    assert place.is_dir() or place.is_symlink()
    assert (tmp_path / "target").read_text() == "mine"


def test_file_changed_after_a_pull_is_the_user_s(model_hub: Hub, folder: Path) -> None:
    """Also for rm, and where only an unsampled byte differs."""
    model_hub.files[SHARDS[1]] = make_safetensors(4 << 20)
    run_pull(folder, model_hub.url)
    with (folder / SHARDS[1]).open("r+b") as file:
        file.seek(100_003 + (64 << 10))
        file.write(b"tuned")
    (folder / "config.json").write_text("mine")
    tuned = read_all(folder)
    with pytest.raises(OwnFilesError, match=r"config\.json \(4 bytes, not 23\)"):
        run_pull(folder, model_hub.url)
    assert read_all(folder) == tuned
    [sentence] = asyncio.run(remove(LocalAgents(folder))).popitem()[1]
    assert "holds 2 files that no pull fetched" in sentence
    assert read_all(folder) == {name: tuned[name] for name in ("config.json", SHARDS[1])}


def test_fetched_files_are_replaced_by_another_version(model_hub: Hub, folder: Path) -> None:
    """They are ours: no question."""
    run_pull(folder, model_hub.url)
    manifest = Manifest.read(folder)
    assert manifest is not None
    assert all(facts.fetched for facts in manifest.files.values())
    model_hub.files["config.json"] = b'{"model_type": "llama", "new": 1}'
    old = json.loads((folder / MANIFEST).read_text()) | {"revision": "older"}
    (folder / MANIFEST).write_text(json.dumps(old))
    run_pull(folder, model_hub.url)
    assert read_all(folder) == wanted_of(model_hub)


def test_links_of_a_hub_cache_are_never_removed(model_hub: Hub, tmp_path: Path) -> None:
    """A pull adopts a snapshot and fetches what it lacks; rm removes that alone."""
    repo = tmp_path / "hub" / "models--somebody--some-llama"
    snapshot = repo / "snapshots" / "abc"
    fill(repo / "blobs", wanted_of(model_hub))
    snapshot.mkdir(parents=True)
    for name in sorted(wanted_of(model_hub)):
        if name != "chat_template.jinja":
            (snapshot / name).symlink_to(f"../../blobs/{name}")
    before = {path.name: path.readlink() for path in snapshot.iterdir()}
    run_pull(snapshot, model_hub.url)
    assert read_all(snapshot) == wanted_of(model_hub)
    asyncio.run(remove(LocalAgents(snapshot)))
    assert {path.name: path.readlink() for path in snapshot.iterdir()} == before


def test_manifest_of_an_older_version_proves_nothing(model_hub: Hub, folder: Path) -> None:
    """It does not record who brought the files: rm keeps them all, and says so."""
    run_pull(folder, model_hub.url)
    old = json.loads((folder / MANIFEST).read_text())
    for facts in old["files"].values():
        del facts["fetched"]
    (folder / MANIFEST).write_text(json.dumps(old))
    with pytest.raises(WeightsError, match="of an older raylaunch"):
        asyncio.run(remove(LocalAgents(folder)))
    assert read_all(folder) == wanted_of(model_hub)


def test_folder_at_the_download_s_name_is_not_ours(model_hub: Hub, folder: Path) -> None:
    """Neither used, nor emptied, nor removed; nor is a file at the lock's name."""
    aside, lock = folder.with_name(f"{folder.name}.download"), folder.with_name(f"{folder.name}.lock")
    fill(aside, {"config.json": b"mine", "x.part": b"mine"})
    with pytest.raises(WeightsError, match="raylaunch did not make it"):
        run_pull(folder, model_hub.url)
    assert read_all(aside) == {"config.json": b"mine", "x.part": b"mine"}
    aside.rename(folder.with_name("elsewhere"))
    lock.write_text("mine")
    run_pull(folder, model_hub.url)
    asyncio.run(remove(LocalAgents(folder)))
    assert lock.read_text() == "mine"


def test_file_that_appears_while_the_model_is_fetched_stays(model_hub: Hub, folder: Path) -> None:
    """The last step looks again."""
    folder.mkdir(parents=True)
    model_hub.files[SHARDS[0]] = make_safetensors(1 << 20)

    def report(line: str) -> None:
        if "fetching" in line:
            (folder / "config.json").write_text("mine")

    with pytest.raises(OwnFilesError, match=r"config\.json"):
        fetch_model(REPO, None, folder, report=report)
    assert read_all(folder) == {"config.json": b"mine"}


def test_conversion_does_not_replace_the_user_s_files(folder: Path, tmp_path: Path) -> None:
    """As the default model's package is put in place."""
    built = tmp_path / "built"
    fill(built, {"config.json": b"{}"})
    fill(folder, {"config.json": b"mine"})
    with pytest.raises(OwnFilesError):
        store.install(built, folder, Manifest("a/b", None, "", {"config.json": FileFacts(2, "0" * 64)}))
    assert read_all(folder) == {"config.json": b"mine"}


def test_path_without_a_repo_has_nothing_to_fetch(model_hub: Hub, folder: Path, tmp_path: Path) -> None:
    """No default repo is put into a folder of the user."""
    fill(folder, {"config.json": b'{"my": 1}'})
    launch = tmp_path / "launch.yaml"
    launch.write_text(f"model: {{path: {folder}}}\n")
    done = run_weights(launch, "pull")
    assert (done.returncode, done.stdout) == (0, "")
    assert "nothing to fetch: the launch has no model.repo" in " ".join(done.stderr.split())
    assert read_all(folder) == {"config.json": b'{"my": 1}'}
    done = run_weights(launch, "check")
    assert (done.returncode, "copy the missing files there" in done.stderr) == (1, True), done.stderr
    fill(folder, wanted_of(model_hub))
    done = run_weights(launch, "check")
    assert done.returncode == 0, done.stderr
    assert model_hub.requests == []


@pytest.mark.root
def test_read_only_complete_folder(model_hub: Hub, tmp_path: Path) -> None:
    """Pull says that it is complete, and check agrees; damage is found all the same."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], check=True)
    try:
        fill(folder, wanted_of(model_hub))
        subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
        launch = tmp_path / "launch.yaml"
        launch.write_text(f"model: {{repo: {REPO}, path: {folder}}}\n")
        done = run_weights(launch, "pull")
        assert done.returncode == 0, done.stderr
        assert "complete and read-only" in " ".join(done.stderr.split())
        done = run_weights(launch, "check")
        assert done.returncode == 0, done.stderr
        subprocess.run(["mount", "-o", "remount,rw", folder], check=True)
        os.truncate(folder / SHARDS[0], 100)
        subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
        assert run_weights(launch, "check").returncode == 1
    finally:
        subprocess.run(["umount", "-l", folder], check=True)
