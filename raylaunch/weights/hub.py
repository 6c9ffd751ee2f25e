"""The Hugging Face Hub, through huggingface_hub: list a repo, and read a file from any offset.

HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE have the same meaning as there. Other nodes receive a HubAccess.
"""

import http.client
import os
import queue
import re
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from raylaunch.base.errors import WeightsError
from raylaunch.base.http_client import explain
from raylaunch.node.loader_files import (
    DEFAULT_FORMAT,
    MODULES,
    ModuleFolder,
    find_weights,
    is_tokenizer,
    is_weights,
    parse_modules,
)
from raylaunch.node.manifest import is_plain_name
from raylaunch.weights.hub_errors import RESUMES, explain_refusal
from raylaunch.weights.hub_types import HubAccess, Listing, RepoFile, get_endpoint

HUB_CHUNK_BYTES = 512 << 10
"""Bytes per read from the hub: the most that an interruption loses of each open file."""
_PROBE_S = 4.0
_TIMEOUT_S = 120.0
"""Longest time without a byte before a download fails; received data is kept."""
_WAIT_FIRST_S, _WAIT_MOST_S = 0.5, 30.0
_MOST_MODULES_BYTES = 1 << 20
_RETRIED = (408, 429, 500, 502, 503, 504)
_KEPT_SUFFIXES = (".json", ".jinja", ".txt", ".py")
"""Configs, chat template, besides weights and tokenizers. vLLM runs Python files only with trust_remote_code."""


def explain_unreachable(endpoint: str | None = None) -> str | None:
    """Why this machine cannot reach the hub, as a clause; None if it can. Takes at most a few seconds."""
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if os.environ.get(variable, "").upper() in {"1", "ON", "YES", "TRUE"}:
            return f"{variable} is set"
    address = endpoint or get_endpoint()
    answers: queue.Queue[str | None] = queue.Queue()
    # A thread, because no client timeout limits the name lookup.
    threading.Thread(target=lambda: answers.put(_probe(address)), daemon=True).start()
    try:
        reason = answers.get(timeout=_PROBE_S + 1)
    except queue.Empty:
        reason = f"no answer from {address} within {_PROBE_S:.0f} s"
    return reason and f"the hub is out of reach: {reason}"


def _probe(endpoint: str) -> str | None:
    try:
        with urllib.request.urlopen(f"{endpoint}/api/models?limit=1", timeout=_PROBE_S):
            return None
    except urllib.error.HTTPError:
        return None  # an HTTP server answers; the client reports its error
    except (OSError, http.client.HTTPException, ValueError) as error:
        is_tls = isinstance(getattr(error, "reason", None), ssl.SSLError)  # the client reports it
        return None if is_tls else str(explain(error, endpoint, _PROBE_S))


def choose_files(
    sizes: Mapping[str, int], load_format: str = DEFAULT_FORMAT, modules: Collection[ModuleFolder] = ()
) -> list[str]:
    """The files of a repo that a server needs: the weights that vLLM loads, configs, tokenizer and chat template.

    Copies of the weights in other formats (.gguf, onnx/, original/) are left out.

    Args:
        sizes: path in the repo -> bytes.
        load_format: the launch's engine.load_format.
        modules: the folders of a sentence-transformers model, of which files are chosen by the same rule.
    """
    chosen = _choose_flat(sizes, load_format)
    for path in dict.fromkeys(module.path for module in modules):
        inside = [name.removeprefix(f"{path}/") for name in sizes if name.startswith(f"{path}/")]
        chosen += [f"{path}/{name}" for name in _choose_flat(inside, DEFAULT_FORMAT)]
    return sorted(chosen)


def _choose_flat(paths: Iterable[str], load_format: str) -> list[str]:
    """Those of one folder's files that are needed; files in folders inside are not."""
    names = [name for name in paths if is_plain_name(name)]
    weights = set(find_weights(names, load_format))
    if "model.safetensors.index.json" in names:  # it never names Mistral's copy
        weights = {name for name in weights if not name.startswith("consolidated")} or weights
    return [
        name
        for name in names
        if name in weights or (not is_weights(name) and (name.endswith(_KEPT_SUFFIXES) or is_tokenizer(name)))
    ]


def list_repo(repo: str, revision: str | None, access: HubAccess, load_format: str = DEFAULT_FORMAT) -> Listing:
    """List a repo at the commit that `revision` names now.

    Raises:
        WeightsError: the hub refuses, or the repo has no weights that vLLM loads, or has unsafe file names.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    from huggingface_hub.hf_api import RepoFile as HubFile

    api = HfApi(endpoint=access.endpoint, token=access.token or False)
    try:
        commit = api.model_info(repo, revision=revision, timeout=30).sha
        entries = list(api.list_repo_tree(repo, revision=commit, recursive=True))
    except HFValidationError as error:
        raise WeightsError(
            f"model.repo {repo!r} is not a Hugging Face id: {error}", fix="write it as owner/name"
        ) from None
    except HfHubHTTPError as error:
        raise explain_refusal(error, repo, revision, access) from None
    except _transport_errors() as error:
        raise WeightsError(
            f"{access.endpoint} closed the connection: {error or type(error).__name__}", fix=RESUMES
        ) from None
    listed = {entry.path: entry for entry in entries if isinstance(entry, HubFile)}
    _refuse_hostile_names(repo, listed)
    sizes = {path: entry.size for path, entry in listed.items()}
    chosen = choose_files(sizes, load_format)
    if load_format != "dummy" and not any(map(is_weights, chosen)):
        raise WeightsError(
            f"{repo} has no weights that load_format {load_format} loads",
            fix="choose a repo that has them (see its Files page on the hub), or another engine.load_format",
        )
    listing = Listing(repo, revision, commit, access.endpoint, {}, {})
    if MODULES in chosen and sizes[MODULES] <= _MOST_MODULES_BYTES:
        alone = replace(listing, files={MODULES: _read_entry(listed[MODULES])})
        modules = parse_modules(b"".join(read_file(alone, MODULES, 0, access)))
        chosen = choose_files(sizes, load_format, modules)
    return replace(
        listing,
        files={name: _read_entry(listed[name]) for name in chosen},
        left_out={path: size for path, size in sorted(sizes.items()) if path not in chosen},
    )


def _read_entry(entry: Any) -> RepoFile:
    if entry.lfs:
        return RepoFile(entry.size, sha256=entry.lfs.sha256)
    return RepoFile(entry.size, git_sha1=entry.blob_id)


def _refuse_hostile_names(repo: str, paths: Mapping[str, Any]) -> None:
    for path in paths:
        parts = re.split(r"[/\\]", path)
        if not path.isprintable() or path.startswith(("/", "~")) or "\\" in path or ".." in parts:
            raise WeightsError(
                f"{repo} has a file named {path!r}, which would be written outside the model's folder: refused",
                fix="do not use this repo; report it to its owner or the hub",
            )


def read_file(
    listing: Listing, name: str, start: int, access: HubAccess, *, timeout_s: float = _TIMEOUT_S
) -> Iterator[bytes]:
    """Bytes of a repo's file from `start` to its end, in chunks of HUB_CHUNK_BYTES; reconnects after a break.

    huggingface_hub sends the requests (address, token, redirects, retries of 429 and 5xx). Its own downloads cannot
    start at an offset (seen in 2.4), hence the ranges here.

    Args:
        timeout_s: longest time without a byte, in seconds.

    Raises:
        WeightsError: the hub refuses, or sent no byte for `timeout_s`.
    """
    from huggingface_hub import hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import build_hf_headers

    size, position, moved_at, wait_s = listing.files[name].size, start, time.monotonic(), _WAIT_FIRST_S
    url = hf_hub_url(listing.repo, name, revision=listing.commit, endpoint=access.endpoint)
    headers = build_hf_headers(token=access.token or False) | {"Accept-Encoding": "identity"}
    while position < size:
        try:
            for chunk in _read_range(url, headers, position, size):
                position += len(chunk)
                moved_at, wait_s = time.monotonic(), _WAIT_FIRST_S
                yield chunk
            if position == size:
                return
            failure = WeightsError(f"{access.endpoint} closed the connection during {name}", fix=RESUMES)
        except HfHubHTTPError as error:
            failure = explain_refusal(error, listing.repo, listing.revision, access)
            if error.response.status_code not in _RETRIED:
                raise failure from None
        except _transport_errors() as error:
            failure = WeightsError(
                f"{access.endpoint} stopped sending {name}: {error or type(error).__name__}", fix=RESUMES
            )
        if time.monotonic() - moved_at > timeout_s:
            raise failure
        time.sleep(wait_s)
        wait_s = min(2 * wait_s, _WAIT_MOST_S)


def _read_range(url: str, headers: Mapping[str, str], start: int, size: int) -> Iterator[bytes]:
    from huggingface_hub import constants
    from huggingface_hub.utils import hf_raise_for_status, http_stream_backoff

    ranged = dict(headers) | ({"Range": f"bytes={start}-"} if start else {})
    with http_stream_backoff(
        "GET",
        url,
        headers=ranged,
        timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
        max_retries=2,
        max_wait_time=_WAIT_MOST_S,
        retry_on_exceptions=(),
        retry_on_status_codes=_RETRIED,
    ) as response:
        hf_raise_for_status(response)
        unwanted = (
            start if response.status_code == 200 else 0
        )  # some mirrors ignore ranges: skip the bytes that exist here
        left = size - start
        for chunk in response.iter_bytes(HUB_CHUNK_BYTES):
            wanted = chunk[min(unwanted, len(chunk)) :][:left]
            unwanted -= min(unwanted, len(chunk))
            left -= len(wanted)
            if wanted:
                yield wanted


def _transport_errors() -> tuple[type[Exception], ...]:
    """Errors of huggingface_hub's HTTP client for a broken connection: httpx2 since 2.0, httpx before."""
    import importlib

    from huggingface_hub.utils import get_session

    client = importlib.import_module(type(get_session()).__module__.partition(".")[0])
    return (client.TransportError, client.StreamError, client.DecodingError)
