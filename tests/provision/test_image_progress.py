"""The pull and build of the image on a host, by what its script writes there."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

from raylaunch.provision import image_progress
from raylaunch.provision.artifacts import make_build_script
from raylaunch.provision.container import DOCKER
from raylaunch.provision.head_session import HeadReport
from raylaunch.provision.host_shell import HostShell
from raylaunch.provision.image_progress import ImageStage, read_stage
from raylaunch.provision.template import KIT_MOUNT
from raylaunch.provision.up import ClusterUp
from tests.provision.conftest import HEAD, WORKER

LAYERS = {"a" * 64: 4_000_000_000, "b" * 64: 5_000_000_000, "c" * 64: 800_000_000}


def make_manifest(layers: dict[str, int]) -> str:
    """What `docker manifest inspect --verbose` prints of an image for two architectures."""
    listed = [{"digest": f"sha256:{digest}", "size": size} for digest, size in layers.items()]
    return json.dumps(
        [
            {"Descriptor": {"platform": {"architecture": "arm64"}}, "OCIManifest": {"layers": listed[:1]}},
            {"Descriptor": {"platform": {"architecture": "amd64"}}, "OCIManifest": {"layers": listed}},
        ]
    )


PULL = """\
v0.32.0: Pulling from vllm/vllm-openai
aaaaaaaaaaaa: Pulling fs layer
bbbbbbbbbbbb: Pulling fs layer
cccccccccccc: Pulling fs layer
cccccccccccc: Download complete
aaaaaaaaaaaa: Verifying Checksum
aaaaaaaaaaaa: Download complete
"""
DOCKER_PROGRAM = """\
case "$1 $2" in
"image inspect") [ -e {folder}/pulled ] && echo sha256:0123456789abcdef; exit ;;
"manifest inspect") cat {folder}/manifest ;;
"pull "*) cat {folder}/pull; {query} >{folder}/during-pull; touch {folder}/pulled ;;
"build "*) {query} >{folder}/during-build ;;
esac"""


def test_a_pull_counts_the_bytes_of_its_layers() -> None:
    """By the sizes that the registry lists; without them, the layers."""
    output = f"=== stage\npulling\n\n=== pull.log\n{PULL}\n=== manifest.json\n"
    assert read_stage(output + make_manifest(LAYERS)) == ImageStage("pulling vLLM's image", "4.8 of 9.8 GB")
    assert read_stage(output) == ImageStage("pulling vLLM's image", "2 of 3 layers")
    assert read_stage("=== stage\n\n=== pull.log\n") == ImageStage("")
    assert read_stage("") == ImageStage("")


def test_the_script_writes_what_is_read(tmp_path: Path, add_program: Callable[[str, str], None]) -> None:
    """Run by a shell with a docker that pulls: the stages come in their order, and nothing is left of them."""
    kit = tmp_path / "kit"
    kit.mkdir()
    (kit / "build-image").write_text(make_build_script(DOCKER))
    (kit / "layer-id").write_text("0123")
    (kit / "Dockerfile").write_text("FROM vllm/vllm-openai:v0.32.0\n")
    (tmp_path / "pull").write_text(PULL)
    (tmp_path / "manifest").write_text(make_manifest(LAYERS))
    query = image_progress.make_query("x").replace(f"/tmp/ray_tmp_mount/x{KIT_MOUNT}", str(kit))
    add_program("docker", DOCKER_PROGRAM.format(folder=tmp_path, query=f"({query})"))
    done = subprocess.run(["sh", str(kit / "build-image"), "image:1"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert read_stage((tmp_path / "during-pull").read_text()) == ImageStage("pulling vLLM's image", "4.8 of 9.8 GB")
    assert read_stage((tmp_path / "during-build").read_text()) == ImageStage("building raylaunch's layer")
    assert sorted(path.name for path in kit.iterdir()) == ["Dockerfile", "build-image", "layer-id"]
    assert not (tmp_path / "kit.progress").exists()


def test_a_host_shows_its_image_instead_of_the_launchers_step(shell: HostShell) -> None:
    """What is done of it stands behind the bar; other hosts show their step."""
    run = ClusterUp(shell, 1800.0, gpus={HEAD: 8, WORKER: 8})
    run.images.stages[HEAD] = ImageStage("pulling vLLM's image", "3.1 of 9.8 GB")
    report = HeadReport({}, {WORKER: "waiting-for-ssh"}, {}, [])
    line = str(run.describe_host(HEAD, report))
    assert line == f"{HEAD}: head: pulling vLLM's image | 3.1 of 9.8 GB | 0 s of at most 1800 s"
    assert run.describe_host(WORKER, report).state == "worker: waiting for ssh"
