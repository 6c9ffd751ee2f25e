"""Network interfaces and InfiniBand devices of this node, as its processes see them."""

import os
import platform
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from raylaunch.node.facts import identify_machine
from raylaunch.node.host import find_address, read_link_speed

_PREFIXES = ("NCCL_", "GLOO_", "VLLM_HOST_IP")


@dataclass(frozen=True, slots=True)
class Interface:
    """One interface that is up."""

    name: str
    address: str
    """Its first IPv4 address; "" where it has none."""
    mtu: int
    """Largest packet, in bytes."""
    speed_mbit_s: int | None
    """Of the link, as the driver reports it; None where it reports none, or the link is no card's (a pair, a bond)."""


@dataclass(frozen=True, slots=True)
class NodeNetwork:
    """What decides how the ranks of a node talk to others."""

    node_ip: str
    """The node's address in Ray."""
    hostname: str
    machine: str
    """Boot id and network namespace: equal for Ray nodes of one machine."""
    kernel: str
    driver: str
    """Version of NVIDIA's kernel module; "" without one."""
    interfaces: tuple[Interface, ...]
    infiniband: tuple[str, ...]
    """Devices the kernel has: "mlx5_0"."""
    can_use_infiniband: bool
    """Whether the verbs devices are in this container (/dev/infiniband)."""
    environment: Mapping[str, str]
    """NCCL_*, GLOO_* and VLLM_HOST_IP of the ranks on this node."""
    gpus: tuple[str, ...] = ()
    """PCI address and ids of every card that NVIDIA's driver holds."""
    isolation: str = ""
    """The kernel's parameters and its IOMMUs, which decide whether peer access delivers."""
    resolved: str = ""
    """What the hostname means here, which Gloo binds to where GLOO_SOCKET_IFNAME is not set; "" where nothing."""

    def find_own(self) -> Interface | None:
        """The interface that has the node's address."""
        return next((one for one in self.interfaces if one.address == self.node_ip), None)


def read_network(node_ip: str, *, root: Path = Path("/")) -> NodeNetwork:
    """This node's facts.

    Args:
        node_ip: its address in Ray.
        root: the folder with sys/, proc/ and dev/.
    """
    devices = _list(root / "sys/class/infiniband")
    return NodeNetwork(
        node_ip=node_ip,
        hostname=socket.gethostname(),
        machine=identify_machine(),
        kernel=platform.release(),
        driver=_read(root / "sys/module/nvidia/version"),
        interfaces=tuple(_read_interface(root, name) for name in _list(root / "sys/class/net") if _is_up(root, name)),
        infiniband=tuple(devices),
        can_use_infiniband=bool(_list(root / "dev/infiniband")),
        environment={name: value for name, value in os.environ.items() if name.startswith(_PREFIXES)},
        gpus=tuple(_describe_card(card) for card in sorted((root / "sys/bus/pci/drivers/nvidia").glob("*:*"))),
        isolation=" ".join([_read(root / "proc/cmdline"), *_list(root / "sys/class/iommu")]),
        resolved="" if "GLOO_SOCKET_IFNAME" in os.environ else _resolve(socket.gethostname()),
    )


def _describe_card(card: Path) -> str:
    ids = [_read(card / name) for name in ("device", "subsystem_vendor", "subsystem_device")]
    return " ".join([card.name, *ids])


def _resolve(name: str) -> str:
    try:
        return str(socket.getaddrinfo(name, None)[0][4][0])
    except OSError:
        return ""


def _list(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def _is_up(root: Path, name: str) -> bool:
    flags = _read(root / "sys/class/net" / name / "flags")
    return bool(flags) and bool(int(flags, 16) & 1)


def _read_interface(root: Path, name: str) -> Interface:
    mtu = int(_read(root / "sys/class/net" / name / "mtu") or 0)
    speed = read_link_speed(name, root) if _is_cards(root / "sys/class/net" / name) else None
    return Interface(name, find_address(name), mtu, speed)


def _is_cards(folder: Path) -> bool:
    """Whether it is one network card: a veth pair reports 10 Gbit/s whatever it carries, a bond the sum of several."""
    below = list(folder.glob("lower_*"))
    return (folder / "device").exists() or (len(below) == 1 and (below[0] / "device").exists())
