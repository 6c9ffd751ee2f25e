"""What can go wrong between the hub and a disk, on one machine: real client, real HTTP, real file systems."""

import asyncio
import json
import os
import subprocess
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from raylaunch.base.errors import WeightsError
from raylaunch.node.manifest import MANIFEST, Manifest, find_difference
from raylaunch.node.model_folder import find_problems
from raylaunch.weights import hub
from raylaunch.weights.agents import LocalAgents
from raylaunch.weights.expected_files import PullRequest
from raylaunch.weights.fetch_local import fetch_model
from raylaunch.weights.hub import list_repo, read_file
from raylaunch.weights.hub_types import HubAccess
from raylaunch.weights.progress import ConsoleReporter
from raylaunch.weights.pull import pull
from tests.hub_server import Hub

from .conftest import REPO, SHARDS, make_safetensors, run_pull, wanted_of


def fetch(folder: Path, revision: str | None = None) -> list[str]:
    lines: list[str] = []
    fetch_model(REPO, revision, folder, report=lines.append)
    return lines


def read_all(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("[!.]*")}


# ---- a hub that is slow, breaks off, refuses for a while


def test_connections_that_break_are_taken_up(model_hub: Hub, folder: Path) -> None:
    """Each request resumes at the byte where the one before ended."""
    model_hub.files[SHARDS[0]] = make_safetensors(8 << 20)
    model_hub.cut_after_bytes = [3 << 20, 1, 2 << 20]
    fetch(folder)
    assert read_all(folder) == wanted_of(model_hub)
    positions = [(asked.start, asked.sent) for asked in model_hub.asked_for(SHARDS[0])]
    assert len(positions) > 1
    assert sum(sent for _, sent in positions) - len(model_hub.files[SHARDS[0]]) <= 3 * hub.HUB_CHUNK_BYTES


def test_rate_limit_and_overload_are_waited_out(model_hub: Hub, folder: Path) -> None:
    model_hub.refuse_next = [(429, {"Retry-After": "0"}), (503, {}), (500, {})]
    fetch(folder)
    assert read_all(folder) == wanted_of(model_hub)


def test_silent_connection_is_left_and_taken_up(model_hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub stalls in the middle of a file: after the client's own timeout the rest is asked for again."""
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "1")
    model_hub.files[SHARDS[0]] = make_safetensors(4 << 20)
    model_hub.hold_after_bytes = 2 << 20
    lines: list[str] = []

    def report(line: str) -> None:
        lines.append(line)
        if "fetching" in line:
            model_hub.hold_after_bytes = 3 << 20  # what is left fits

    fetch_model(REPO, None, folder, report=report)
    assert read_all(folder) == wanted_of(model_hub)
    assert [asked.start > 0 for asked in model_hub.asked_for(SHARDS[0])] == [False, True]


def test_hub_that_sends_nothing_more_is_given_up(model_hub: Hub) -> None:
    access = HubAccess(model_hub.url)
    listing = list_repo(REPO, None, access)
    model_hub.refuse_files = (503, "")
    with pytest.raises(WeightsError, match="answered 503"):
        list(read_file(listing, SHARDS[0], 0, access, timeout_s=0))
    model_hub.refuse_files = None
    model_hub.cut_after_bytes = [0]
    with pytest.raises(WeightsError, match=rf"stopped sending {SHARDS[0]}|during {SHARDS[0]}"):
        list(read_file(listing, SHARDS[0], 0, access, timeout_s=0))


def test_mirror_without_ranges(model_hub: Hub, folder: Path) -> None:
    """It sends the complete file for any range: bytes that exist already are skipped."""
    model_hub.files[SHARDS[0]] = make_safetensors(4 << 20)
    model_hub.knows_ranges = False
    model_hub.cut_after_bytes = [3 << 20]
    fetch(folder)
    assert read_all(folder) == wanted_of(model_hub)


def test_redirect_to_another_host_keeps_the_token_back(
    model_hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecretsecret")
    model_hub.redirects = True
    fetch(folder)
    assert read_all(folder) == wanted_of(model_hub)
    by_host = {
        place: {asked.authorization for asked in model_hub.requests if asked.path.startswith(place)}
        for place in (f"/{REPO}/resolve/", "/elsewhere/")
    }
    assert by_host == {f"/{REPO}/resolve/": {"Bearer hf_secretsecretsecret"}, "/elsewhere/": {None}}


@pytest.mark.parametrize("name", [SHARDS[0], "config.json"])
def test_bytes_that_differ_from_the_listing_are_refused(model_hub: Hub, folder: Path, name: str) -> None:
    """Of the right length, but not with the right hash: never put in place."""
    body = model_hub.files[name]
    model_hub.sends_instead[name] = bytes([body[0] ^ 1]) + body[1:]
    with pytest.raises(WeightsError, match=f"{name}: its hash differs"):
        fetch(folder)
    assert not folder.exists()
    model_hub.sends_instead.clear()
    fetch(folder)
    assert read_all(folder) == wanted_of(model_hub)


@pytest.mark.parametrize(
    "name", ["../evil.json", "/etc/evil.json", "a/../../evil.json", "..\\evil.json", "evil\n.json", "~/evil.json"]
)
def test_hostile_names_are_refused(model_hub: Hub, folder: Path, name: str) -> None:
    model_hub.files[name] = b"{}"
    with pytest.raises(WeightsError, match="outside the model's folder: refused"):
        run_pull(folder, model_hub.url)
    assert model_hub.count_sent() == 0


def test_planted_symlink_is_not_followed(model_hub: Hub, folder: Path, tmp_path: Path) -> None:
    """A link where a file is to be written: what it points to stays as it is."""
    target = tmp_path / "precious"
    target.write_text("mine")
    aside = folder.with_name(f"{folder.name}.download")
    aside.mkdir(parents=True)
    (aside / ".of").write_text("an earlier pull")
    (aside / "config.json.part").symlink_to(target)
    with pytest.raises(WeightsError, match=r"config\.json"):
        fetch(folder)
    assert target.read_text() == "mine"


def test_repo_file_that_is_a_link_comes_as_plain_text(model_hub: Hub, folder: Path) -> None:
    """git keeps a link as a file with its target's path, and so does the folder."""
    model_hub.files["tokenizer.json"] = b"/etc/passwd"
    fetch(folder)
    assert not (folder / "tokenizer.json").is_symlink()
    assert (folder / "tokenizer.json").read_bytes() == b"/etc/passwd"


# ---- a disk that is full, closed, or holds something else


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", disk], check=True)
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.root
def test_disk_that_fills_up_in_the_middle(model_hub: Hub, small_disk: Path) -> None:
    """Another program fills the disk meanwhile: the error is reported, and the next pull resumes."""
    model_hub.files[SHARDS[0]] = make_safetensors(4 << 20)
    model_hub.pace_bytes_s = 2e6
    other = small_disk / "other"
    folder = small_disk / "some--llama"

    def take_room(line: str) -> None:
        if "fetching" in line:
            other.write_bytes(bytes(3 << 20))

    with pytest.raises(WeightsError, match="No space left"):
        fetch_model(REPO, None, folder, report=take_room)
    other.unlink()
    fetch(folder)
    assert read_all(folder) == wanted_of(model_hub)
    assert model_hub.asked_for(SHARDS[0])[-1].start > 0


@pytest.mark.root
def test_read_only_path(model_hub: Hub, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(WeightsError, match="Read-only") as caught:
        fetch(small_disk / "some--llama")
    assert "RAYLAUNCH_HOME" in caught.value.fix or "model.path" in caught.value.fix


@pytest.mark.root
def test_mount_point_is_filled_from_inside(model_hub: Hub, small_disk: Path) -> None:
    """A folder that cannot be renamed over: its files come one by one, the manifest last."""
    fetch(small_disk)
    assert read_all(small_disk) == wanted_of(model_hub)
    assert Manifest.read(small_disk) is not None


def test_path_is_a_file(model_hub: Hub, folder: Path) -> None:
    folder.parent.mkdir(parents=True)
    folder.write_text("x")
    with pytest.raises(WeightsError, match="is a file, not a folder"):
        fetch(folder)


def test_files_are_plain_and_readable_by_all(model_hub: Hub, folder: Path) -> None:
    fetch(folder)
    assert {oct(path.stat().st_mode & 0o777) for path in folder.iterdir()} == {"0o644"}
    assert oct(folder.stat().st_mode & 0o777) == "0o755"
    assert all(path.is_file() and not path.is_symlink() for path in folder.iterdir())


class _Overtaken(LocalAgents):
    """Another pull of the same runs to its end after this one has looked, before it has the lock."""

    overtaken_by: Coroutine[Any, Any, object] | None = None

    async def call(self, node: str, method: str, *arguments: Any, lane: int = 0, **named: Any) -> Any:
        if method == "try_lock" and self.overtaken_by:
            other, self.overtaken_by = self.overtaken_by, None
            await other
        return await super().call(node, method, *arguments, lane=lane, **named)


def test_pull_that_another_overtook_asks_for_nothing(model_hub: Hub, folder: Path) -> None:
    """It looked when nothing was there, and had the lock at once: the other was done by then."""
    folder.parent.mkdir(parents=True)
    request = PullRequest(REPO, None, folder, HubAccess(model_hub.url))
    agents, reporter = _Overtaken(folder), ConsoleReporter(lambda _: None)
    agents.overtaken_by = pull(request, LocalAgents(folder), reporter)
    asyncio.run(pull(request, agents, reporter))
    assert read_all(folder) == wanted_of(model_hub)
    assert model_hub.count_sent() == sum(len(body) for body in wanted_of(model_hub).values())


# ---- folders that were filled by hand


def test_folder_filled_by_hand_is_completed(model_hub: Hub, folder: Path) -> None:
    """The hub lists the hashes; only what is missing is fetched."""
    folder.mkdir(parents=True)
    for name, body in wanted_of(model_hub).items():
        (folder / name).write_bytes(body)
    (folder / "notes.md").write_text("mine")
    (folder / SHARDS[0]).unlink()
    fetch(folder)
    assert model_hub.count_sent() == len(model_hub.files[SHARDS[0]])
    assert read_all(folder) == wanted_of(model_hub) | {"notes.md": b"mine"}


class _Counting(LocalAgents):
    """Keeps the names of the files that it hashes."""

    read: tuple[str, ...] = ()

    async def call(self, node: str, method: str, *arguments: Any, lane: int = 0, **named: Any) -> Any:
        if method == "verify":
            self.read += tuple(arguments[0])
        return await super().call(node, method, *arguments, lane=lane, **named)


def test_folder_filled_by_hand_is_read_once(model_hub: Hub, folder: Path) -> None:
    """Without a hub no file is hashed twice (141 GB in practice)."""
    folder.mkdir(parents=True)
    for name, body in wanted_of(model_hub).items():
        (folder / name).write_bytes(body)
    agents = _Counting(folder)
    request = PullRequest(REPO, None, folder, HubAccess("http://127.0.0.1:9"))
    asyncio.run(pull(request, agents, ConsoleReporter(lambda _: None)))
    assert sorted(agents.read) == sorted(wanted_of(model_hub))
    assert not find_problems(folder)


def test_manifest_names_what_was_left_out(model_hub: Hub, folder: Path) -> None:
    lines = fetch(folder)
    manifest = Manifest.read(folder)
    assert manifest is not None
    assert set(manifest.left_out) == model_hub.files.keys() - wanted_of(model_hub).keys()
    assert all(facts.sha256 and facts.sampled for facts in manifest.files.values())
    assert any(line.startswith(f"left out: {len(manifest.left_out)} files") for line in lines)


def test_manifest_with_a_path_in_a_name_is_not_followed(folder: Path, tmp_path: Path) -> None:
    folder.mkdir(parents=True)
    (tmp_path / "victim").write_text("x")
    files = {"../../victim": {"size": 1, "sha256": None}, "config.json": {"size": 2, "sha256": None}}
    manifest = {"format": 2, "repo": REPO, "revision": None, "source": "", "files": files}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    found = Manifest.read(folder)
    assert found is not None
    assert list(found.files) == ["config.json"]


def test_flipped_byte_is_seen_by_the_fast_check(model_hub: Hub, folder: Path) -> None:
    """Where a sampled block has it: the first, the last and fourteen between."""
    fetch(folder)
    manifest = Manifest.read(folder)
    assert manifest is not None
    with (folder / SHARDS[1]).open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))
    assert find_problems(folder) == ()
    difference = find_difference(folder, SHARDS[1], manifest.files[SHARDS[1]], samples=True)
    assert (difference or "").startswith(f"{SHARDS[1]} has other content")
