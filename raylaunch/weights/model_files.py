"""A model's config.json and the headers of its safetensors files, from a folder or from the hub without the weights."""

import json
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from raylaunch.base.errors import WeightsError
from raylaunch.weights import hub
from raylaunch.weights.hub_types import HubAccess

_MOST_HEADER_BYTES = 100_000_000
"""safetensors' own limit."""
_MOST_CONFIG_BYTES = 8 << 20
_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor of a safetensors file: name, safetensors' name of its dtype, size in bytes."""

    name: str
    kind: str
    size: int


@dataclass(frozen=True)
class ModelFiles:
    """What a plan reads of a model."""

    config: JsonValue
    tensors: tuple[StoredTensor, ...]
    """Empty where there are no safetensors files."""
    where: str


def read_folder(folder: Path) -> ModelFiles:
    """Of a model's folder on this machine.

    Raises:
        WeightsError: it has no readable config.json; headers that cannot be read are left out.
    """
    file = folder / "config.json"
    try:
        with file.open("rb") as opened:
            config = _parse(opened.read(_MOST_CONFIG_BYTES), str(file))
        names = sorted(path for path in folder.iterdir() if path.name.endswith(".safetensors"))
    except OSError as error:
        raise WeightsError(f"{file} cannot be read: {error.strerror}", fix="name a model's folder") from None
    chosen = hub.choose_files({path.name: 1 for path in names})
    tensors = []
    for name in chosen:
        try:
            tensors += _read_header_of(folder / name)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error):
            return ModelFiles(config, (), str(folder))  # incomplete: the shape alone tells
    return ModelFiles(config, tuple(tensors), str(folder))


def read_repo(repo: str, revision: str | None, access: HubAccess) -> ModelFiles:
    """Of a repo on the hub: config.json and the first bytes of each safetensors file.

    Raises:
        WeightsError: the hub is out of reach or refuses, or the repo has no config.json.
    """
    if reason := hub.explain_unreachable(access.endpoint):
        raise WeightsError(f"{repo}: {reason}", fix="name a folder with the model's config.json instead")
    listing = hub.list_repo(repo, revision, access)
    if "config.json" not in listing.files:
        raise WeightsError(f"{repo} has no config.json", fix="choose a repo in Hugging Face's format")

    def reader(name: str) -> Callable[[int], bytes]:
        pieces: Iterator[bytes] = hub.read_file(listing, name, 0, access)
        kept = bytearray()

        def read(size: int) -> bytes:
            while len(kept) < size:
                kept.extend(next(pieces))
            return bytes(kept[:size])

        return read

    config = _parse(reader("config.json")(listing.files["config.json"].size), f"{repo}/config.json")
    names = [name for name in listing.files if name.endswith(".safetensors") and "/" not in name]
    try:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            headers = list(pool.map(lambda name: _read_header(reader(name)), names))
    except (ValueError, KeyError, TypeError, AttributeError, struct.error, StopIteration, RuntimeError):
        headers = []
    return ModelFiles(config, tuple(tensor for header in headers for tensor in header), f"{repo} at {listing.source}")


def _parse(content: bytes, where: str) -> JsonValue:
    try:
        parsed: JsonValue = json.loads(content)
    except (ValueError, RecursionError):
        raise WeightsError(f"{where} is not valid JSON", fix="fetch the model again") from None
    return parsed


def _read_header_of(file: Path) -> list[StoredTensor]:
    with file.open("rb") as opened:

        def read(size: int) -> bytes:
            opened.seek(0)
            return opened.read(size)

        return _read_header(read)


def _read_header(read: Callable[[int], bytes]) -> list[StoredTensor]:
    """The tensors of a file, by its header: 8 bytes of length (little endian), then JSON."""
    (length,) = struct.unpack("<Q", read(8))
    if length > _MOST_HEADER_BYTES:
        raise ValueError("not a safetensors file")
    header = json.loads(read(8 + length)[8:])
    return [
        StoredTensor(name, str(entry["dtype"]), int(entry["data_offsets"][1]) - int(entry["data_offsets"][0]))
        for name, entry in header.items()
        if name != "__metadata__"
    ]
