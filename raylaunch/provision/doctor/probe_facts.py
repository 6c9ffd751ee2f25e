"""Parsers for the probe's output; every parser is a pure function of recorded text."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raylaunch.provision.container import CLUSTER_LABEL, LAYER_LABEL

MISSING = 127
"""Exit status of a section whose program is not installed."""
TIMED_OUT = 124


@dataclass(frozen=True, slots=True)
class Section:
    """One part of the probe's answer."""

    text: str
    status: int

    @property
    def timed_out(self) -> bool:
        """Whether it ran out of time."""
        return self.status in (TIMED_OUT, 137)


@dataclass(frozen=True, slots=True)
class Probe:
    """The probe's complete output."""

    noise: str
    """What the login shell printed before the probe began."""
    sections: Mapping[str, Section]

    def find(self, name: str) -> Section:
        """A section; a missing one counts as out of time."""
        return self.sections.get(name, Section("", TIMED_OUT))


@dataclass(frozen=True, slots=True)
class System:
    """Distribution and user."""

    family: str
    """Whose commands it has: "debian", "rhel", "suse", "arch" or "other"."""
    distribution: str
    user: str
    hostname: str
    has_bashrc: bool
    has_nvidia_hook: bool

    @property
    def sudo(self) -> str:
        """Prefix of a command for the administrator."""
        return "" if self.user == "root" else "sudo "


@dataclass(frozen=True, slots=True)
class Disk:
    """Free and total bytes of the file system that holds a folder, or will hold it."""

    place: str
    free: int
    total: int


@dataclass(frozen=True, slots=True)
class RuntimeFacts:
    """The container runtime."""

    problem: str
    """Empty where it answers, else "missing", "stopped", "denied", "slow" or "failed"."""
    message: str = ""
    version: str = ""
    runtimes: tuple[str, ...] = ()
    cdi: bool | None = None
    """Whether it takes CDI devices; None where it does not report that (before 25)."""
    disk: Disk | None = None
    """Where it keeps images."""


@dataclass(frozen=True, slots=True)
class Image:
    """The cluster's image on a host."""

    id: str
    digests: tuple[str, ...]
    label: str
    """container.LAYER_LABEL: equal for images whose layer was built from the same content."""
    cuda: str | None
    """CUDA_VERSION of its environment."""


@dataclass(frozen=True, slots=True)
class Container:
    """The container of the cluster's name on a host; `cluster` is its CLUSTER_LABEL."""

    status: str
    """"created", "running", "exited", ..."""
    image: str
    runs_ray: bool
    cluster: str = ""


@dataclass(frozen=True, slots=True)
class RuntimeObjects:
    """What the container runtime has of this cluster."""

    image: Image | None
    container: Container | None
    answered: bool = True
    """Whether the runtime answered; if not, None means unknown."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One line of nvidia-smi."""

    index: int
    uuid: str
    name: str
    total_mib: int
    used_mib: int
    driver: str


@dataclass(frozen=True, slots=True)
class HostGpus:
    """All GPUs of a host."""

    problem: str
    """Empty where nvidia-smi answers, else its message; "missing" where it is not installed."""
    gpus: tuple[Gpu, ...] = ()
    holders: tuple[tuple[str, str], ...] = ()
    """uuid of a GPU -> "pid 12 (python3) holds 800 MiB"."""


@dataclass(frozen=True, slots=True)
class Route:
    """The route to another host of the cluster; None means unknown."""

    link: str | None
    source: str | None
    mtu: int | None
    speed_mbit_s: int | None


def read_pairs(text: str) -> dict[str, str]:
    """Lines of name=value."""
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def split(output: str, mark: str) -> Probe:
    """The sections of the probe's output."""
    noise, _, rest = output.partition(f"{mark} begin\n")
    sections = {}
    for found in re.finditer(rf"^{mark} (\w+)\n(.*?)\n?^{mark} = (\d+)$", rest, re.M | re.S):
        sections[found[1]] = Section(found[2], int(found[3]))
    return Probe(noise.removesuffix("\n"), sections)


def parse_system(section: Section) -> System:
    """Section `system`."""
    values = read_pairs(section.text)
    kin = {values.get("id", "").strip('"'), *values.get("like", "").strip('"').split()}
    families = (
        ("debian", {"debian", "ubuntu"}),
        ("rhel", {"rhel", "fedora", "centos"}),
        ("suse", {"suse", "opensuse", "sles"}),
        ("arch", {"arch"}),
    )
    return System(
        family=next((family for family, names in families if kin & names), "other"),
        distribution=values.get("name", "").strip('"') or "an unknown distribution",
        user=values.get("user", ""),
        hostname=values.get("hostname", ""),
        has_bashrc=values.get("bashrc") == "yes",
        has_nvidia_hook=bool(values.get("hook")),
    )


def parse_docker(section: Section) -> RuntimeFacts:
    """Section `docker`: the runtime's `info` as JSON, or its message."""
    if section.timed_out:
        return RuntimeFacts("slow")
    if section.status == MISSING:
        return RuntimeFacts("missing")
    info = _read_json(section.text)
    errors = [str(error) for error in info.get("ServerErrors") or ()] if isinstance(info, dict) else []
    message = " ".join(errors) or section.text
    if "permission denied" in message:
        return RuntimeFacts("denied", message)
    if isinstance(info, dict) and info.get("ServerVersion"):
        return RuntimeFacts(
            "",
            version=str(info["ServerVersion"]),
            runtimes=tuple(info.get("Runtimes") or ()),
            cdi=bool(info["CDISpecDirs"]) if "CDISpecDirs" in info else None,
            disk=next(iter(parse_disks(section)), None),
        )
    if re.search("no daemon|no socket", section.text) or re.search("Cannot connect|connection refused", message):
        return RuntimeFacts("stopped", message)
    return RuntimeFacts("failed", message)


def parse_objects(section: Section) -> RuntimeObjects:
    """Section `objects`: the runtime's `inspect` of image and container, and the container's programs."""
    text, _, programs = section.text.partition("\nprograms\n")
    image = container = None
    answer = None if section.timed_out else _read_json(text)
    if not isinstance(answer, list):
        return RuntimeObjects(None, None, answered=False)
    for found in answer:
        if "State" in found:
            container = Container(
                status=str(found["State"].get("Status", "")),
                image=str(found.get("Image", "")),
                runs_ray=bool({*programs.split()} & {"raylet", "gcs_server"}),
                cluster=str(((found.get("Config") or {}).get("Labels") or {}).get(CLUSTER_LABEL, "")),
            )
        else:
            config = found.get("Config") or {}
            variables = read_pairs("\n".join(config.get("Env") or ()))
            image = Image(
                id=str(found["Id"]),
                digests=tuple(digest.partition("@")[2] for digest in found.get("RepoDigests") or ()),
                label=str((config.get("Labels") or {}).get(LAYER_LABEL, "")),
                cuda=variables.get("CUDA_VERSION"),
            )
    return RuntimeObjects(image, container)


def parse_gpus(section: Section, holders: Section) -> HostGpus:
    """Sections `gpus` and `holders`: nvidia-smi's tables as CSV."""
    if section.status == MISSING:
        return HostGpus("missing")
    if section.status != 0:
        return HostGpus("no answer within 10 s" if section.timed_out else section.text.strip() or "it failed")
    gpus = []
    for line in section.text.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) == 6 and cells[0].isdigit():
            total, used = (int(cell) if cell.isdigit() else 0 for cell in cells[3:5])
            gpus.append(Gpu(int(cells[0]), cells[1], cells[2], total, used, cells[5]))
    held = []
    for line in holders.text.splitlines() if holders.status == 0 else ():
        cells = [cell.strip() for cell in line.split(",", 3)]
        if len(cells) == 4 and cells[1].isdigit():
            held.append((cells[0], f"pid {cells[1]} ({cells[3]}) holds {cells[2]} MiB"))
    return HostGpus("", tuple(gpus), tuple(held))


def parse_route(section: Section) -> Route:
    """Section `route`: `ip route get`, and the kernel's facts of that link (speed -1: a virtual link has none)."""
    values = read_pairs(section.text)
    source = re.search(r" src (\S+)", section.text)
    mtu, speed = (values.get(name, "") for name in ("mtu", "speed"))
    return Route(
        link=values.get("link") or None,
        source=source[1] if source else None,
        mtu=int(mtu) if mtu.isdigit() else None,
        speed_mbit_s=int(speed) if speed.isdigit() and int(speed) > 0 else None,
    )


def parse_disks(section: Section) -> tuple[Disk, ...]:
    """Sections `disk` and `docker`: lines of "disk", an existing folder and its `df -Pk`, in the order requested."""
    found = re.findall(r"^disk (.+) \S+ +(\d+) +\d+ +(\d+) +\S+ +/", section.text, re.M)
    return tuple(Disk(place, int(free) << 10, int(total) << 10) for place, total, free in found)


def parse_memory(section: Section) -> tuple[int, int] | None:
    """Section `memory`: total and available bytes."""
    kib = {name: int(value) for name, value in re.findall(r"^(\w+):\s+(\d+) kB", section.text, re.M)}
    return (kib["MemTotal"] << 10, kib["MemAvailable"] << 10) if {"MemTotal", "MemAvailable"} <= kib.keys() else None


def parse_sockets(section: Section) -> frozenset[int]:
    """Section `sockets`: TCP ports with a listener on any address, by the kernel's table (state 0A)."""
    found = re.findall(r"^ *\d+: [0-9A-F]+:([0-9A-F]{4}) [0-9A-F]+:0000 0A ", section.text, re.M)
    return frozenset(int(port, 16) for port in found)


def parse_listeners(section: Section) -> dict[int, str]:
    """Section `listeners`: port -> "nginx (pid 12)", where `ss` may see the program."""
    found = re.findall(r'^LISTEN +\d+ +\d+ +\S+:(\d+) .*?users:\(\("([^"]+)",pid=(\d+)', section.text, re.M)
    return {int(port): f"{name} (pid {pid})" for port, name, pid in found}


def _read_json(text: str) -> Any:
    """The first JSON value in a text that may hold other lines."""
    for start in (found.start() for found in re.finditer(r"[\[{]", text)):
        try:
            return json.JSONDecoder().raw_decode(text[start:])[0]
        except ValueError:
            continue
    return None
