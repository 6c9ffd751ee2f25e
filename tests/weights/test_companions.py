"""pull, check and rm of what a launch names beside its model, as typed. Real client, real HTTP."""

import dataclasses
import json
from pathlib import Path

import pytest

from raylaunch.config.companions import list_companions
from raylaunch.config.launch_file import load
from raylaunch.node.companion import inspect_companion
from raylaunch.serve.published_state import PublishedState
from tests.hub_server import COMMIT, Hub

from .conftest import REPO, run_weights, wanted_of


def test_check_names_a_damaged_companion(model_hub: Hub, tmp_path: Path) -> None:
    """The model is complete, a file of its draft is not."""
    launch = tmp_path / "launch.yaml"
    draft = f"{{model: {REPO}, revision: {COMMIT}, num_speculative_tokens: 2}}"
    launch.write_text(f"model: {{repo: {REPO}, path: {tmp_path}/model}}\nengine: {{speculative_config: {draft}}}\n")
    assert run_weights(launch, "pull").returncode == 0
    assert run_weights(launch, "check").returncode == 0
    (tmp_path / REPO.replace("/", "--") / "config.json").write_bytes(b"")
    done = run_weights(launch, "check")
    assert done.returncode == 1
    assert "config.json has 0 bytes" in " ".join(done.stderr.split())


@pytest.mark.parametrize("field", ["model_folders", "models"])
@pytest.mark.parametrize("name", ["model", REPO.replace("/", "--"), "link"])
def test_folders_that_a_service_loads_are_not_removed(model_hub: Hub, tmp_path: Path, name: str, field: str) -> None:
    """Also where the service has another name for its model, and by a link to the folder.

    A service of an older raylaunch has the path among its models only.
    """
    launch = tmp_path / "launch.yaml"
    draft = f"{{model: {REPO}, revision: {COMMIT}, num_speculative_tokens: 2}}"
    launch.write_text(
        f"model: {{repo: {REPO}, path: {tmp_path}/model}}\n"
        f"engine: {{served_model_name: mine, speculative_config: {draft}}}\n"
    )
    assert run_weights(launch, "pull").returncode == 0
    (tmp_path / "link").symlink_to("model")
    served = dataclasses.replace(PublishedState(load(launch, environ={}), rehearsal=None).service, port=1)
    assert served.model_folders == (str(tmp_path / "model"), str(tmp_path / REPO.replace("/", "--")))
    dataclasses.replace(served, **{"model_folders": (), field: (str(tmp_path / name),)}).save()
    done = run_weights(launch, "rm", "--yes")
    assert done.returncode == 1
    assert "is being served on port 1" in done.stderr
    assert (tmp_path / name / "config.json").exists()


@pytest.mark.parametrize("key", ["speculative_config: {model: %s, num_speculative_tokens: 2}", "tokenizer: %s"])
def test_companions_are_pulled_checked_and_removed(model_hub: Hub, tmp_path: Path, key: str) -> None:
    """Of a tokenizer's repo no weights; the model is a folder of the user, which stays."""
    folder, launch = tmp_path / REPO.replace("/", "--"), tmp_path / "launch.yaml"
    model = tmp_path / "mine"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "llama"}')
    launch.write_text(f"model: {{path: {model}}}\nengine:\n  {key % REPO}\n")
    done = run_weights(launch, "pull", "--json")
    assert done.returncode == 0, done.stderr
    wanted = wanted_of(model_hub)
    if key.startswith("tokenizer"):
        wanted = {name: body for name, body in wanted.items() if not name.endswith(".safetensors")}
    assert {path.name for path in folder.iterdir() if not path.name.startswith(".")} == wanted.keys()
    assert json.loads(done.stdout)["folder"] == str(folder)
    [companion] = list_companions(load(launch, environ={}))
    assert inspect_companion(companion).problem == ""
    assert inspect_companion(dataclasses.replace(companion, folder="/nowhere")).problem
    assert run_weights(launch, "rm", "--yes").returncode == 1  # the model's folder has no manifest: kept
    assert not folder.exists()
    assert (model / "config.json").exists()
