"""A model's folder on one machine: its state, its lock, and all changes to it.

Next to the folder during a pull (inside it if it is a mount point or its parent is not writable)::

    <name>.download/    complete files, and `.part` prefixes of files in transit; `.of` says that a pull made it
    <name>.lock         held by the fetching process

A file that no pull wrote, or that was changed since, is never written over, renamed over or removed. Only
`move_aside` renames such files, at the user's request.
"""

import contextlib
import errno
import os
import shlex
import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from raylaunch.base.errors import WeightsError
from raylaunch.node.loader_files import ModuleFolder
from raylaunch.node.manifest import (
    FOLDER_MODE,
    MANIFEST,
    MOST_PARTS,
    FileFacts,
    Manifest,
    find_obstacle,
    hash_samples,
    list_parents,
    remove_empty,
    was_fetched,
)
from raylaunch.node.model_folder import read_modules
from raylaunch.weights.own_files import OwnFile, OwnFilesError
from raylaunch.weights.partial_file import SUFFIX
from raylaunch.weights.working_folder import LOCK_TEXT, NOTE, Note, StorePaths, claim, discard, is_ours, list_names


@dataclass(frozen=True)
class StoreState:
    """The state of a model's path on one node."""

    problem: str = ""
    """Why the path cannot be used, as a sentence; "" if it can."""
    fix: str = ""
    manifest: Manifest | None = None
    files: Mapping[str, int] = field(default_factory=dict)
    """Files in the folder and its sub-folders: relative name -> bytes."""
    modules: tuple[ModuleFolder, ...] = ()
    """Sub-folders that its modules.json names."""
    aside: Mapping[str, int] = field(default_factory=dict)
    """Complete files of an interrupted pull: name -> bytes."""
    aside_of: str = ""
    """Key of that pull (see prepare)."""
    parts: Mapping[str, int] = field(default_factory=dict)
    """Partial files of that pull: name -> bytes."""
    free_bytes: int = 0
    is_writable: bool = True

    @property
    def contents(self) -> tuple[object, ...]:
        """Manifest and all files, complete and partial."""
        return self.manifest, dict(self.files), dict(self.aside), dict(self.parts)


def inspect(folder: Path) -> StoreState:
    """Read the state of a model's path on this machine; changes nothing."""
    place = StorePaths(folder)
    try:
        if os.path.lexists(folder) and not folder.is_dir():
            what = "a file" if folder.is_file() else "a broken link" if folder.is_symlink() else "no folder"
            return StoreState(f"{folder} is {what}, not a folder", "move it away, or correct model.path")
        parent = _find_existing_parent(folder)
        files = _list_sizes(folder, follows=True)
        aside = place.claimed
        beside = _list_sizes(aside) if aside else {}
    except OSError as error:
        fix = f"make it readable: chmod -R a+rX {shlex.quote(str(folder))}"
        return StoreState(f"{folder} cannot be read: {error.strerror}", fix)
    target = folder if folder.is_dir() else parent
    return StoreState(
        manifest=Manifest.read(folder),
        files=files,
        modules=read_modules(folder),
        aside={name: size for name, size in beside.items() if not name.endswith(SUFFIX)},
        aside_of=Note.read(aside).key if aside else "",
        parts={name.removesuffix(SUFFIX): size for name, size in beside.items() if name.endswith(SUFFIX)},
        free_bytes=shutil.disk_usage(target).free,
        is_writable=os.access(target, os.W_OK) and not os.statvfs(target).f_flag & os.ST_RDONLY,
    )


def _find_existing_parent(folder: Path) -> Path:
    """The nearest existing parent."""
    return next(parent for parent in folder.parents if parent.is_dir())


def _list_sizes(folder: Path, *, follows: bool = False, within: str = "") -> dict[str, int]:
    """Files of a folder and its sub-folders, as deep as a model's may lie: relative name -> bytes.

    Args:
        follows: also into links to folders.
    """
    found: dict[str, int] = {}
    try:
        for entry in os.scandir(folder / within):
            name = f"{within}{entry.name}"
            if entry.name.startswith("."):
                continue
            if entry.is_file():
                found[name] = entry.stat().st_size
            elif name.count("/") < MOST_PARTS - 1 and entry.is_dir(follow_symlinks=follows):
                found |= _list_sizes(folder, follows=follows, within=f"{name}/")
    except OSError as error:
        if not within and not isinstance(error, FileNotFoundError):
            raise  # a sub-folder that cannot be read is none of the model's, or is reported as missing
    return found


def prepare(folder: Path, of: str, names: Collection[str]) -> None:
    """Create the download folder.

    Args:
        of: key of the pull. Complete files of an earlier pull with the same key are not hashed again.
        names: the files that the pull may bring.

    Raises:
        WeightsError: it cannot be created, or the user has something under its name.
    """
    aside = StorePaths(folder).aside
    place = folder if folder.is_dir() else aside.parent
    try:
        if folder.is_dir() and not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        claim(aside, of, names)
    except OSError as error:
        raise WeightsError(
            f"the model cannot be written to {folder}: {error.strerror}",
            fix=f"free disk space there or allow writing in {place}, or set another model.path"
            + (f"; if another user's pull left {aside}, remove that" if is_ours(aside) else ""),
        ) from error


def list_own(folder: Path, names: Collection[str]) -> tuple[OwnFile, ...]:
    """Which of these names the user has in the folder: what no pull wrote there, or what was changed since.

    Reads the files that a pull wrote completely.
    """
    manifest = Manifest.read(folder)
    facts = manifest.files if manifest else {}
    found = {
        there
        for name in names
        if (there := find_obstacle(folder, name)) and not was_fetched(folder, name, facts.get(name))
    }
    return tuple(OwnFile.of(folder / name, name) for name in sorted(found))


def move_aside(folder: Path, names: Collection[str]) -> Path:
    """Move files of the user into a new folder next to this one; that folder.

    Raises:
        OSError: they cannot be moved.
    """
    target = StorePaths(folder).replaced
    target.mkdir(mode=FOLDER_MODE)
    for name in names:
        _move(folder, target, name)
    return target


def finish(folder: Path, manifest: Manifest) -> None:
    """Move the files of a pull into the folder (atomically if it is new) and write the manifest.

    Files of the folder that the manifest does not name stay.

    Raises:
        OwnFilesError: a file that no pull wrote stands where one belongs; nothing was moved.
        OSError: the folder cannot be written.
    """
    aside = StorePaths(folder).claimed
    if aside is None:
        before = Manifest.read(folder)
        made = before.made if before else ()
        _write_manifest(folder, replace(manifest, made=made), before, frozenset())
        return
    note = Note.read(aside)
    for name in list_names(aside):
        if note.is_ours(name) and name not in manifest.files and name != NOTE:
            (aside / name).unlink()
    install(aside, folder, manifest)


def install(source: Path, folder: Path, manifest: Manifest) -> None:
    """Move the manifest's files from a working folder of raylaunch into the model's folder; see finish."""
    there = list_names(source)
    arrived = frozenset(there) & manifest.files.keys()
    before = Manifest.read(folder)
    if own := list_own(folder, arrived):
        raise OwnFilesError.on_install(folder, own)
    if not os.path.lexists(folder) and set(there) - arrived <= {NOTE, MANIFEST}:
        _write_manifest(source, replace(manifest, made=tuple(list_parents(arrived))), None, arrived)
        (source / NOTE).unlink(missing_ok=True)
        source.chmod(FOLDER_MODE)
        source.rename(folder)
        return
    folder.mkdir(mode=FOLDER_MODE, exist_ok=True)
    made = {name for name in list_parents(arrived) if not (folder / name).is_dir()}
    made |= set(before.made if before else ())
    for name in arrived:
        _move(source, folder, name)
    _write_manifest(folder, replace(manifest, made=tuple(list_parents(f"{name}/x" for name in made))), before, arrived)
    discard(source, keeps_others=True)


def _move(source: Path, target: Path, name: str) -> None:
    """Move a file to the same relative name in another folder of the same disk."""
    (target / name).parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    (source / name).rename(target / name)


def _write_manifest(folder: Path, manifest: Manifest, before: Manifest | None, arrived: Collection[str]) -> None:
    """Write it with samples; marks the files that this pull (`arrived`) or an earlier one (`before`) wrote."""

    def complete(name: str, facts: FileFacts) -> FileFacts:
        old = before.files.get(name) if before else None
        fetched = name in arrived or (old is not None and old.fetched and old.sha256 == facts.sha256)
        return replace(facts, sampled=hash_samples(folder / name), fetched=fetched)

    written = replace(manifest, files={name: complete(name, facts) for name, facts in manifest.files.items()})
    found = Manifest.read(folder)
    if found != written or found.made != written.made or _list_fetched(found) != _list_fetched(written):
        written.write(folder)


def _list_fetched(manifest: Manifest) -> set[str]:
    return {name for name, facts in manifest.files.items() if facts.fetched}


def take_back(folder: Path, name: str) -> None:
    """Remove a damaged file from the download folder; one in the folder itself is replaced later."""
    aside = StorePaths(folder).claimed
    if aside and find_obstacle(aside, name) == name:
        (aside / name).unlink()


def find_file(folder: Path, name: str) -> Path | None:
    """Path of the complete file on this machine; None if it is missing."""
    aside = StorePaths(folder).claimed
    places = (aside if aside and find_obstacle(aside, name) == name else None, folder)
    return next((place / name for place in places if place and (place / name).is_file()), None)


def remove(folder: Path) -> Iterator[str]:
    """Remove the files that a pull wrote and that are unchanged since; yields a sentence on files that are kept.

    Raises:
        WeightsError: the folder has no file that a pull is known to have written.
        OSError: a file cannot be removed.
    """
    place = StorePaths(folder)
    manifest = Manifest.read(folder)
    if folder.is_dir() and any(folder.iterdir()) and not (manifest and _list_fetched(manifest)):
        raise WeightsError(
            f"no pull is known to have fetched a file of {folder}, so all are kept: "
            + ("its manifest marks none as fetched, or is of an older raylaunch" if manifest else "it has no manifest"),
            fix=f"if nothing in it is of worth: rm -r {shlex.quote(str(folder))}",
        )
    discard(place.aside, keeps_others=True)
    with contextlib.suppress(OSError):
        if place.lock.read_bytes() == LOCK_TEXT:
            place.lock.unlink()
    if manifest is None:
        return
    for name, facts in manifest.files.items():
        if was_fetched(folder, name, facts):
            (folder / name).unlink()
    remove_empty(folder, manifest.made)
    (folder / MANIFEST).unlink()
    if left := sorted(path.name for path in folder.iterdir()):
        names = ", ".join(left[:3])
        yield f"{folder} is kept: it holds {len(left)} files that no pull fetched, or that were changed since ({names})"
    elif not folder.is_mount() and not folder.is_symlink():
        folder.rmdir()
