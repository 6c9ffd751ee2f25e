"""What a host does for the cluster's image: vLLM's image is pulled (10 GB), then raylaunch's layer is built.

`build-image` (artifacts.make_build_script) writes `stage`, `pull.log` and `manifest.json` into a folder beside its own.
"""

import contextlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from raylaunch.provision.host_shell import HostShell
from raylaunch.provision.template import KIT_MOUNT

_PAUSE_S, _TIMEOUT_S = 3.0, 10.0
_MARK = "=== "
_LAYER = re.compile(r"^([0-9a-f]{12}): (.+)$", re.M)
_HERE = ("Download complete", "Pull complete", "Already exists", "Extracting", "Verifying Checksum")
"""States of a layer whose bytes are on the host, in what `docker pull` prints without a terminal."""


@dataclass(frozen=True, slots=True)
class ImageStage:
    """What a host does for its image, and how much of it is done."""

    what: str
    """ "pulling vLLM's image", "building raylaunch's layer"; empty: nothing."""
    amount: str = ""
    """How much of it is done: "3.1 of 9.8 GB"."""


def make_query(cluster_name: str) -> str:
    """The shell command that prints what `build-image` has written on a host."""
    folder = f"/tmp/ray_tmp_mount/{cluster_name}{KIT_MOUNT}.progress"
    files = "stage pull.log manifest.json"
    return f"cd {folder} 2>/dev/null && for f in {files}; do echo '{_MARK}'$f; cat $f 2>/dev/null; echo; done; true"


def read_stage(output: str) -> ImageStage:
    """The stage by the output of `make_query`."""
    files = {name: text for name, _, text in (part.partition("\n") for part in output.split(_MARK)[1:])}
    match files.get("stage", "").strip():
        case "pulling":
            amount = _count_pulled(files.get("pull.log", ""), files.get("manifest.json", ""))
            return ImageStage("pulling vLLM's image", amount)
        case "building":
            return ImageStage("building raylaunch's layer")
    return ImageStage("")


def _count_pulled(log: str, manifest: str) -> str:
    layers = dict(_LAYER.findall(log))  # the last state of each
    here = {layer for layer, state in layers.items() if state.startswith(_HERE)}
    sizes = read_sizes(manifest)
    if sizes and {*layers} <= {*sizes}:
        return f"{sum(sizes[layer] for layer in here) / 1e9:.1f} of {sum(sizes.values()) / 1e9:.1f} GB"
    return f"{len(here)} of {len(layers)} layers" if layers else ""


def read_sizes(manifest: str) -> dict[str, int]:
    """First 12 digits of a layer's digest -> bytes, of `docker manifest inspect --verbose`; empty without an answer."""
    try:
        answer = json.loads(manifest)
    except ValueError:
        return {}
    for entry in answer if isinstance(answer, list) else [answer]:
        platform = entry.get("Descriptor", {}).get("platform", {})
        content = entry.get("OCIManifest") or entry.get("SchemaV2Manifest")
        if content and platform.get("architecture", "amd64") == "amd64":
            return {layer["digest"].partition(":")[2][:12]: int(layer["size"]) for layer in content["layers"]}
    return {}


@dataclass
class ImageWatch:
    """The stage of every host, asked of them every three seconds."""

    shell: HostShell
    stages: dict[str, ImageStage] = field(default_factory=dict)

    def find_stage(self, host: str) -> ImageStage:
        """The stage of a host."""
        return self.stages.get(host, ImageStage(""))

    @contextlib.contextmanager
    def follow(self) -> Iterator[None]:
        """Ask until the block ends."""
        ended = threading.Event()

        def watch(host: str) -> None:
            while not ended.wait(_PAUSE_S):
                result = self.shell.run(host, make_query(self.shell.cluster.cluster_name), timeout_s=_TIMEOUT_S)
                self.stages[host] = read_stage(result.stdout)

        if KIT_MOUNT in self.shell.cluster.file_mounts:
            for host in self.shell.cluster.hosts:
                threading.Thread(target=watch, args=(host,), daemon=True).start()
        try:
            yield
        finally:
            ended.set()
