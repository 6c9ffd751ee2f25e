"""What a cluster file's schema does not show: hosts that are one machine, options that docker or Ray would reject."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pydantic import JsonValue

from raylaunch.base import paths
from raylaunch.base.addresses import is_address, resolve
from raylaunch.base.text import quote
from raylaunch.config.docker_values import find_refused
from raylaunch.config.gpu_request import GpuRequest
from raylaunch.config.layers import Key, LayeredValues
from raylaunch.config.run_options import RunOptions, is_expanded

_PORT = re.compile(r"\[?([^\]]+?)\]?:(\d{1,5})")
_NUMBERS = re.compile(r"[\d.]+(-[\d.]+)?")
_IMAGE = re.compile(r"^[^/]*[.:][^/]*/|^localhost/|(?::[^/:@]*)?(?:@.*)?$")
"""What of an image's name may have capitals: the registry, the tag and the digest."""
_PORT_HINT = (
    "ssh takes the port from ~/.ssh/config (a `Host` entry with `Port`) for what this machine connects to; the head "
    "starts the workers from its container, always at port 22"
)


def check_cluster(layered: LayeredValues) -> None:
    """Add a problem for what raylaunch or Ray's launcher would fail at; values of a wrong type are left out."""
    _check_hosts(layered)
    _check_docker(layered)
    _check_workers(layered)
    _check_mounts(layered)


def _check_user(layered: LayeredValues, hosts: Sequence[str]) -> None:
    """A domain user (alice@corp.example) is one; a user at a host is not."""
    user = layered.find_block(("auth",)).get("ssh_user")
    name, _, place = user.partition("@") if isinstance(user, str) else ("", "", "")
    if place and (place in hosts or is_address(place)):
        layered.complain(("auth", "ssh_user"), f"{quote(user)} names a host: write {name} alone")


def _check_hosts(layered: LayeredValues) -> None:
    provider = layered.find_block(("provider",))
    workers = provider.get("worker_ips")
    named: list[tuple[Key, JsonValue]] = [(("provider", "head_ip"), provider.get("head_ip"))]
    named += [(("provider", "worker_ips"), worker) for worker in (workers if isinstance(workers, list) else ())]
    hosts = [(key, host) for key, host in named if isinstance(host, str)]
    for key, host in hosts:
        if problem := _describe_form(host):
            layered.complain(key, problem)
    addresses = resolve([host for _, host in hosts if not _describe_form(host)])
    for _, host in hosts:
        found = addresses.get(host, frozenset())
        if host in ("localhost", "0.0.0.0") or (found and all(map(_is_loopback, found))):
            resolved = f" resolves to {min(found)}, which" if found and not is_address(host) else ""
            what = f"{host}{resolved if host != 'localhost' else ''} is a different machine on every host"
            layered.complain(("provider",), f"{what}: use an address of the network")
    _check_twins(layered, hosts, addresses)
    _check_user(layered, [host for _, host in hosts])


def _describe_form(host: str) -> str:
    """What is wrong with how a host is written; "" for a name or an IPv4 address."""
    address = host.strip("[]").partition("%")[0]
    if "@" in host:
        return f"{quote(host)} names a user: write it as auth.ssh_user, and the address alone here"
    if is_address(address) and ":" in address:
        return (
            f"{quote(host)} is an IPv6 address, which Ray's launcher cannot copy files to (2.60): use the host's IPv4 "
            "address, or a name that resolves to it"
        )
    if found := _PORT.fullmatch(host):
        return f"{quote(host)} holds a port: write {found[1]} alone. {_PORT_HINT}"
    if not is_address(host) and _NUMBERS.fullmatch(host):
        return f"{quote(host)} is not an IPv4 address: four numbers from 0 to 255, without leading zeros"
    return ""


def _is_loopback(address: str) -> bool:
    return address.startswith("127.") or address == "::1"


def _check_twins(
    layered: LayeredValues, hosts: Sequence[tuple[Key, str]], addresses: dict[str, frozenset[str]]
) -> None:
    """No machine is listed twice: by the same text, in another case, or by a name and its address."""
    for place, (key, host) in enumerate(hosts):
        for _, other in hosts[:place]:
            if host.lower() == other.lower():
                layered.complain(key, f"{host} is listed twice among the hosts")
            elif shared := addresses.get(host, frozenset()) & addresses.get(other, frozenset()):
                layered.complain(key, f"{host} and {other} are one machine ({min(shared)}): list it once")
            else:
                continue
            break


def _check_docker(layered: LayeredValues) -> None:
    docker = layered.find_block(("docker",))
    if docker.get("use_podman"):
        layered.complain(("docker", "use_podman"), "podman is not supported yet; set it to false or leave it out")
    image = docker.get("image")
    if isinstance(image, str) and "://" in image:
        layered.complain(("docker", "image"), f"{quote(image)}: leave out {image.partition('://')[0]}://")
    elif isinstance(image, str) and re.search("[A-Z]", _IMAGE.sub("", image)):
        layered.complain(("docker", "image"), f"{quote(image)}: docker accepts small letters only in an image's name")
    for name in ("head_image", "worker_image"):
        if docker.get(name) not in (None, docker.get("image")):
            layered.complain(
                ("docker", name), f"every node has to run the same image: set docker.image, and leave {name} out"
            )
    common = _list_text(docker.get("run_options"))
    for kind in ("head", "worker"):
        own = _list_text(docker.get(f"{kind}_run_options"))
        key = ("docker", f"{kind}_run_options" if own else "run_options")
        if own or kind == "head":
            _check_options(layered, key, [*common, *own])


def _check_options(layered: LayeredValues, key: Key, lines: Sequence[str]) -> None:
    """The options of `docker run` for the head or the workers."""
    try:
        options = RunOptions.parse(lines)
        GpuRequest.read(options, ())
    except ValueError as error:
        layered.complain(key, str(error))
        return
    if options.stray:
        layered.complain(
            key,
            f"{quote(options.stray[0])} belongs to no option: docker would take it for the image. A value with "
            'spaces needs quotes: -v "/mnt/big disk:/data"',
        )
    for problem in find_refused(options.options, lines):
        layered.complain(key, problem)
    for option in options.options:
        if option.name == "--name" or (option.name in ("--net", "--network") and option.value != "host"):
            ours = "docker.container_name" if option.name == "--name" else "--net=host"
            layered.complain(
                key, f"{option.name} {option.value}: Ray's launcher gives each container {ours}: leave it out"
            )
    targets = [volume.target for volume in options.list_volumes()]
    for target, count in Counter(targets).items():
        if count > 1:
            layered.complain(key, f"two volumes have the path {target} in the container, which docker refuses")
        if not target.startswith("/") and not is_expanded(target):
            layered.complain(key, f"a volume has the path {target} in the container: it has to start with /")


def _check_workers(layered: LayeredValues) -> None:
    """Ray's own limit on workers does not leave out any."""
    workers = layered.find_block(("provider",)).get("worker_ips")
    most = layered.values.get("max_workers")
    if isinstance(workers, list) and isinstance(most, int) and most < len(workers):
        layered.complain(
            ("max_workers",),
            f"Ray would start {most} of the {len(workers)} workers: leave it out, or set {len(workers)}",
        )
    if layered.values.get("available_node_types"):
        layered.complain(
            ("available_node_types",),
            "Ray has no node types for hosts of one's own (provider local): every host is set up alike",
        )


def _check_mounts(layered: LayeredValues) -> None:
    """The sources of file_mounts exist; those that `raylaunch init` and `up` write do so later."""
    for target, source in layered.find_block(("file_mounts",)).items():
        if not isinstance(source, str):
            continue
        path = Path(source).expanduser()
        ours = {paths.home() / "clusters", Path("~/.raylaunch/clusters").expanduser()}
        if not path.exists() and not ours & {*path.parents}:
            layered.complain(("file_mounts", target), f"{source} does not exist on this machine")


def _list_text(value: JsonValue) -> list[str]:
    return [line for line in value if isinstance(line, str)] if isinstance(value, list) else []
