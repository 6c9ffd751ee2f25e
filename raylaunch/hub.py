"""The Hugging Face Hub: is it in reach, and a model's files from it.

The download runs in a child (`python -m raylaunch.hub`), so that Ctrl-C ends it at once and it can be taken up again.
HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE mean what they mean to huggingface_hub.
"""

import glob
import os
import queue
import re
import shutil
import ssl
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raylaunch.errors import WeightsError
from raylaunch.fetch_step import run_step, tell_failure
from raylaunch.model_folder import FileFacts, Manifest, measure_bytes

_PROBE_S = 4.0
_REPORT_EVERY_S = 10.0
_KEPT_SUFFIXES = (".safetensors", ".json", ".jinja", ".txt", ".model", ".tiktoken", ".py")
"""Weights, configs, chat template, tokenizers. Python files are read only where a launch says trust_remote_code."""
_RANDOM_NAME = re.compile(r"\.[0-9a-f]{8}\.incomplete$")
_RESUMES = "run it again: files that came whole are kept"


def get_endpoint() -> str:
    """Address of the hub, or of the mirror that HF_ENDPOINT names."""
    from huggingface_hub import constants

    return (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")


def explain_unreachable() -> str | None:
    """Why the hub cannot be asked, as a clause; None where it answers. Takes at most a few seconds."""
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if os.environ.get(variable, "").upper() in {"1", "ON", "YES", "TRUE"}:
            return f"{variable} is set"
    endpoint = get_endpoint()
    answers: queue.Queue[str | None] = queue.Queue()
    # A thread, because looking up a name takes as long as it likes: no timeout of a client's bounds it.
    threading.Thread(target=lambda: answers.put(_probe(endpoint)), daemon=True).start()
    try:
        reason = answers.get(timeout=_PROBE_S + 1)
    except queue.Empty:
        reason = f"no answer within {_PROBE_S:.0f} s"
    return reason and f"{endpoint} is out of reach ({reason})"


def _probe(endpoint: str) -> str | None:
    try:
        with urllib.request.urlopen(f"{endpoint}/api/models?limit=1", timeout=_PROBE_S):
            return None
    except urllib.error.HTTPError:
        return None  # somebody speaks HTTP there; the client will hear what
    except urllib.error.URLError as error:
        return None if isinstance(error.reason, ssl.SSLError) else str(error.reason)
    except (OSError, ValueError) as error:
        return str(error)


def download(repo: str, revision: str | None, aside: Path, *, report: Callable[[str], None]) -> None:
    """Download a model's files into `aside` and leave a manifest there; files that are there already are kept.

    Raises:
        WeightsError: it could not be had, or the connection broke; what has come is kept.
    """
    aside.mkdir(parents=True, exist_ok=True)
    log = aside.with_name(f"{aside.name}.log")
    run_step(
        ["-m", "raylaunch.hub", repo, revision or "", str(aside)],
        log,
        what=f"the download of {repo} from {get_endpoint()} broke off",
        fix=_RESUMES,
        # huggingface_hub reads these at import; a bar for a log file is noise.
        environment={"HF_HUB_DISABLE_PROGRESS_BARS": "1", "PYTHONWARNINGS": "ignore"},
        watch=_Progress(repo, aside, report).look,
    )
    log.unlink()


@dataclass
class _Progress:
    """Tells now and then how much has come."""

    repo: str
    aside: Path
    report: Callable[[str], None]
    _at: float = field(default_factory=time.monotonic)
    _had: int | None = None

    def look(self) -> None:
        if time.monotonic() - self._at < (_REPORT_EVERY_S if self._had is not None else 1.0):
            return
        try:
            total = int((self.aside / ".total").read_text())
        except (OSError, ValueError):
            return
        now, have = time.monotonic(), min(measure_bytes(self.aside), total)
        rate = "" if self._had is None else f", {(have - self._had) / (now - self._at) / 1e6:.0f} MB/s"
        self.report(f"fetching {self.repo}: {have / 1e9:.2f} of {total / 1e9:.2f} GB{rate}")
        self._at, self._had = now, have


def choose_files(sizes: Mapping[str, int]) -> list[str]:
    """What of a repo's files a server needs: the safetensors weights, configs, tokenizer and chat template.

    Not the same weights again in other formats (.bin, .gguf, onnx/, original/), nor Mistral's `consolidated` copy
    beside the usual files.

    Args:
        sizes: path in the repo -> bytes.
    """
    names = [name for name in sizes if "/" not in name and name.endswith(_KEPT_SUFFIXES)]
    weights = [name for name in names if name.endswith(".safetensors")]
    usual = [name for name in weights if not name.startswith("consolidated")]
    return sorted(name for name in names if name not in weights or name in (usual or weights))


def main(repo: str, revision: str | None, aside: Path) -> int:
    """The child: download, then write the manifest; the exit status."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    from huggingface_hub.hf_api import RepoFile

    _drop_orphans(aside)
    try:
        api = HfApi(endpoint=get_endpoint())
        commit = api.model_info(repo, revision=revision, timeout=30).sha
        listed = [entry for entry in api.list_repo_tree(repo, revision=commit) if isinstance(entry, RepoFile)]
        facts = {entry.path: FileFacts(entry.size, entry.lfs.sha256 if entry.lfs else None) for entry in listed}
        chosen = {name: facts[name] for name in choose_files({name: fact.size for name, fact in facts.items()})}
        _check_possible(repo, chosen, aside)
        (aside / ".total").write_text(str(sum(fact.size for fact in chosen.values())))
        patterns = [glob.escape(name) for name in chosen]
        snapshot_download(
            repo, revision=commit, local_dir=aside, allow_patterns=patterns, endpoint=get_endpoint(), max_workers=4
        )
    except HFValidationError as error:
        tell_failure(f"model.repo {repo!r} is no Hugging Face id: {error}", "write it as owner/name")
        return 1
    except HfHubHTTPError as error:
        tell_failure(*explain_refusal(error, repo, revision))
        return 1
    except WeightsError as error:
        tell_failure(error.what, error.fix)
        return 1
    _tidy(aside, chosen)
    Manifest(repo, revision, f"{get_endpoint()} commit {commit}", chosen).write(aside)
    return 0


def _drop_orphans(aside: Path) -> None:
    """Delete half files of a killed client.

    huggingface_hub 2 gives each a random name and never returns to it: what resumes is the whole files that have come.
    """
    for path in aside.rglob("*.incomplete"):
        if _RANDOM_NAME.search(path.name):
            path.unlink()


def _check_possible(repo: str, chosen: Mapping[str, FileFacts], aside: Path) -> None:
    if not any(name.endswith(".safetensors") for name in chosen):
        raise WeightsError(
            f"{repo} has no safetensors weights", fix="choose a repo that has them (its Files page on the hub tells)"
        )
    missing = sum(fact.size for fact in chosen.values()) - measure_bytes(aside)
    free = shutil.disk_usage(aside).free
    if missing > free:
        raise WeightsError(
            f"{repo} needs {missing / 1e9:.1f} GB more in {aside.parent}, and {free / 1e9:.1f} GB are free",
            fix="make room, or move the models with RAYLAUNCH_HOME=/a/larger/disk",
        )


def _tidy(aside: Path, chosen: Mapping[str, FileFacts]) -> None:
    """Leave the model's files alone: no bookkeeping of the download, no files of an older revision."""
    for path in aside.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in chosen:
            path.unlink()


def explain_refusal(error: Any, repo: str, revision: str | None) -> tuple[str, str]:
    """What a hub's refusal means, and what to do.

    Args:
        error: huggingface_hub's HfHubHTTPError.

    Returns:
        The sentence, and the fix.
    """
    from huggingface_hub import get_token
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    endpoint, status = get_endpoint(), error.response.status_code
    token_fix = f"make a token at {endpoint}/settings/tokens and set HF_TOKEN to it"
    if isinstance(error, GatedRepoError):
        return f"{repo} is gated, and this account has no access yet", (
            f"accept its terms at {endpoint}/{repo}, then " + ("try again" if get_token() else token_fix)
        )
    if isinstance(error, RevisionNotFoundError):
        return f"{repo} has no revision {revision}", f"{endpoint}/{repo}/commits/main lists them (model.revision)"
    if status == 401:
        if get_token():
            return f"{endpoint} refuses the token in HF_TOKEN (401)", token_fix
        return (
            f"{repo} is private, or not on {endpoint} (401: the hub does not tell which without a token)",
            f"check the spelling of model.repo; if it is private, {token_fix}",
        )
    if isinstance(error, RepositoryNotFoundError):
        return f"{endpoint} has no model {repo} (404)", "check the spelling of model.repo"
    if status == 403:
        return f"{endpoint} denies access to {repo} (403)", f"ask its owner for access, or {token_fix}"
    if status == 429:
        return f"{endpoint} says that it is asked too often (429)", f"wait some minutes, or {token_fix}; it resumes"
    return f"{endpoint} answered {status} for {repo}", _RESUMES


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2] or None, Path(sys.argv[3])))
