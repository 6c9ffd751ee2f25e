"""The manifest that raylaunch writes in a model's folder: the source of its files, and the hashes of each.

Runs on nodes, shipped by value: standard library only.
"""

import contextlib
import hashlib
import itertools
import json
import os
import stat
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Self

MANIFEST = ".raylaunch.json"
"""Name of the manifest. Hidden, because it is not part of the model."""
FILE_MODE, FOLDER_MODE = 0o644, 0o755
MOST_PARTS = 4
"""Most parts of a file's relative name: sub-folders and the file. No known layout has more than two."""
_FORMAT = 2
_SAMPLES = 16
_SAMPLE_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class FileFacts:
    """Facts of one file: its size in bytes, and its hashes if known."""

    size: int
    sha256: str | None = None
    sampled: str | None = None
    """SHA-256 of sampled blocks (see hash_samples), for the fast check."""
    fetched: bool = field(default=False, compare=False, repr=False)
    """Whether a pull of raylaunch wrote the file on this node. Manifests of older versions do not record it: False."""

    @classmethod
    def of(cls, path: Path) -> Self:
        """Facts of a file on disk; reads every byte."""
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return cls(path.stat().st_size, sha256, hash_samples(path))


def is_plain_name(name: str) -> bool:
    """Whether a name is that of a file in the folder itself: not a path, not hidden, printable."""
    return name.isprintable() and not name.startswith(".") and not set(name) & {"/", "\\"} and bool(name)


def is_plain_path(name: str) -> bool:
    """Whether a name is that of a file in the folder or a sub-folder of it: each part is a plain name."""
    parts = name.split("/")
    return len(parts) <= MOST_PARTS and all(map(is_plain_name, parts))


def list_parents(names: Iterable[str]) -> list[str]:
    """The sub-folders that these relative names lie in, the deepest first."""
    found = {str(parent) for name in names for parent in PurePosixPath(name).parents} - {"."}
    return sorted(found, key=lambda parent: (-parent.count("/"), parent))


def find_obstacle(folder: Path, name: str) -> str | None:
    """What stands where a file of this relative name belongs, as a relative name; None if nothing does.

    The first link or plain file on the way to it (nothing may be written or removed through a link), else itself.
    """
    for part in (*reversed(list_parents([name])), name):
        path = folder / part
        if not os.path.lexists(path):
            return None
        if part == name or path.is_symlink() or not path.is_dir():
            return part
    return None


def remove_empty(folder: Path, names: Iterable[str]) -> None:
    """Remove those of these sub-folders that are empty; the deepest must come first."""
    for name in names:
        if find_obstacle(folder, name) == name:
            with contextlib.suppress(OSError):
                (folder / name).rmdir()


def hash_samples(path: Path) -> str:
    """SHA-256 over at most 16 blocks of 64 KiB: the first, the last, and between them at equal distances."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        for start in _choose_blocks(size):
            file.seek(start)
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def _choose_blocks(size: int) -> list[int]:
    if size <= _SAMPLES * _SAMPLE_BYTES:
        return list(range(0, size, _SAMPLE_BYTES))
    last = size - _SAMPLE_BYTES
    return [last * number // (_SAMPLES - 1) for number in range(_SAMPLES)]


def write_atomically(path: Path, text: str) -> None:
    """Write a file that all users may read (0644); other processes see the old content or the new.

    Raises:
        OSError: it cannot be written; an older file at `path` is unchanged.
    """
    descriptor, temporary = tempfile.mkstemp(prefix=f"{path.name}.", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            os.fchmod(descriptor, FILE_MODE)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def find_free(path: Path) -> Path:
    """`path`, or with the first number that makes it a name that does not exist."""
    numbered = (path.with_name(f"{path.name}-{number}") for number in itertools.count(2))
    return next(found for found in itertools.chain((path,), numbered) if not os.path.lexists(found))


def was_fetched(folder: Path, name: str, facts: FileFacts | None) -> bool:
    """Whether this file of the folder is still the plain file that a pull wrote, by every byte."""
    if facts is None or not facts.fetched or not facts.sha256:
        return False
    try:
        if find_obstacle(folder, name) != name or not stat.S_ISREG((folder / name).lstat().st_mode):
            return False
        return find_difference(folder, name, facts, complete=True) is None
    except OSError:
        return False


@dataclass(frozen=True)
class Manifest:
    """Source and facts of a folder's files at the end of a pull; on all nodes equal but for the marks."""

    repo: str
    revision: str | None
    """As requested; None is the repo's main branch."""
    source: str
    """Hub and commit, the package with the model, or the folder that was filled by hand."""
    files: Mapping[str, FileFacts]
    commit: str | None = None
    """Of the repo; None if the files did not come from a hub."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Files of the repo that vLLM does not load: path -> bytes."""
    made: tuple[str, ...] = field(default=(), compare=False, repr=False)
    """Sub-folders that a pull made on this node, the deepest first."""

    def write(self, folder: Path) -> None:
        """Write the manifest in `folder`, atomically; what stands there and is no manifest of ours is renamed."""
        place = folder / MANIFEST
        if os.path.lexists(place) and (place.is_symlink() or Manifest.read(folder) is None):
            place.rename(find_free(place.with_name(f"{MANIFEST}.old")))
        write_atomically(place, json.dumps({"format": _FORMAT} | asdict(self), indent=1))

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """The manifest in `folder`; None if it is missing or unreadable."""
        try:
            known = json.loads((folder / MANIFEST).read_bytes())
            files = {
                name: FileFacts(facts["size"], facts["sha256"], facts.get("sampled"), facts.get("fetched") is True)
                for name, facts in known["files"].items()
                if is_plain_path(name)
            }
            made = known.get("made") or ()
            return cls(
                known["repo"],
                known["revision"],
                known["source"],
                files,
                known.get("commit"),
                known.get("left_out") or {},
                tuple(list_parents(f"{name}/x" for name in made if is_plain_path(name))),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def is_of(self, repo: str | None, revision: str | None) -> bool:
        """Whether it is of this repo (None: any), at that branch, tag or commit."""
        is_revision = revision == self.revision or (revision is not None and revision == self.commit)
        return repo is None or (self.repo == repo and is_revision)


def find_difference(
    folder: Path, name: str, facts: FileFacts, *, samples: bool = False, complete: bool = False
) -> str | None:
    """How a file of the folder differs from `facts`, as a sentence that starts with its name; None if it does not.

    Args:
        samples: compare some blocks too.
        complete: compare every byte too.
    """
    path = folder / name
    try:
        size = path.stat().st_size
        if size != facts.size:
            return f"{name} has {size:,} bytes of {facts.size:,}"
        if samples and facts.sampled and hash_samples(path) != facts.sampled:
            return f"{name} has other content (sampled blocks differ)"
        if complete and facts.sha256:
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != facts.sha256:
                    return f"{name} differs from the fetched file (SHA-256 differs)"
    except (FileNotFoundError, NotADirectoryError):
        return f"{name} is missing"
    except OSError as error:
        return f"{name} cannot be read: {error.strerror}"
    return None
