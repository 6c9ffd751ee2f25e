"""What NCCL says of itself at NCCL_DEBUG=INFO: the network it took, the transports, and whether it came through.

Line formats: NCCL 2.7 to 2.32 (init.cc, transport/net_socket.cc, transport/net_ib.cc, transport/p2p.cc).
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_NETWORK = re.compile(r"NCCL INFO (?:Using network (.+)|Initialized NET plugin (.+)|Assigned NET plugin (.+) to comm)")
_SOCKETS = re.compile(r"NCCL INFO NET/Socket : Using (.+)")
_BOOTSTRAP = re.compile(r"NCCL INFO Bootstrap ?: Using (.+)")
_VERBS = re.compile(r"NCCL INFO NET/IB : Using ([^;]*)")
_DEVICE = re.compile(r"([\w.-]+):\d+/\w")
_NO_DEVICE, _NO_LIBRARY = "NET/IB : No device found", "Failed to open libibverbs"
_UNOPENED = re.compile(r"NET/IB : Unable to open device (\S+)")
_SETTING = re.compile(r"NCCL INFO (NCCL_\w+) set (?:by environment )?to (\S+?)\.?$", re.MULTILINE)
_CHANNEL = re.compile(r"NCCL INFO Channel \d+(?:/\d+)? : (\d+)\S* -> (\d+)\S* (?:\[\w+\] )?via (.+)")
_INTERFACE = re.compile(r"(?:\[\d+\]|^|\s)([\w.@-]+):[\da-fA-F.:]+(?:%[\w.@-]+)?<\d+>")
_STARTED, _COMPLETED = re.compile(r"NCCL INFO .*Init START"), re.compile(r"NCCL INFO .*Init COMPLETE")
_WARNING = re.compile(r"((?:[\w./]+:\d+ (?:\(\w+\) )?)?NCCL WARN .+)")


@dataclass(frozen=True, slots=True)
class NcclFacts:
    """One rank's log, read."""

    network: str
    """ "IB", "Socket" or a plugin's name; "" where no network was chosen."""
    interfaces: tuple[str, ...]
    """Interfaces of its sockets, the bootstrap's included."""
    devices: tuple[str, ...]
    """InfiniBand or RoCE devices that it uses."""
    transports: tuple[tuple[int, int, str], ...]
    """From rank, to rank, transport: "P2P/CUMEM", "SHM/direct/direct", "NET/Socket/0", "NET/IB/0/GDRDMA"."""
    settings: Mapping[str, str]
    """NCCL's variables as it read them, those of /etc/nccl.conf included."""
    has_no_library: bool
    """Whether libibverbs is missing."""
    unopened: tuple[str, ...]
    """Devices that it could not open."""
    has_no_device: bool
    """Whether it looked for InfiniBand and found no device."""
    has_started: bool
    is_complete: bool
    """Whether the communicator was set up; a rank that has started and is not complete is where a start hangs."""
    warnings: tuple[str, ...]
    """With the place in NCCL's source: "transport/nvls.cc:254 NCCL WARN ..."."""

    def list_kinds(self) -> tuple[str, ...]:
        """The kinds of transport in use: "P2P", "SHM", "NET/Socket", "NET/IB"."""
        kinds = (
            "/".join(name.split("/")[:2]) if name.startswith("NET") else name.split("/")[0]
            for _, _, name in self.transports
        )
        return tuple(dict.fromkeys(kinds))


def read_nccl_log(text: str) -> NcclFacts:
    """Read one rank's log."""
    network = [next(filter(None, match.groups())).strip() for match in _NETWORK.finditer(text)]
    devices = _list_once(name for match in _VERBS.finditer(text) for name in _DEVICE.findall(match[1]))
    addresses = _SOCKETS.findall(text) + _BOOTSTRAP.findall(text)
    return NcclFacts(
        network=network[-1] if network else ("IB" if devices else ""),
        interfaces=_list_once(name for line in addresses for name in _INTERFACE.findall(line)),
        devices=devices,
        transports=tuple(dict.fromkeys((int(m[1]), int(m[2]), m[3].strip()) for m in _CHANNEL.finditer(text))),
        settings=dict(_SETTING.findall(text)),
        has_no_library=_NO_LIBRARY in text,
        unopened=_list_once(_UNOPENED.findall(text)),
        has_no_device=_NO_DEVICE in text,
        has_started=bool(_STARTED.search(text)),
        is_complete=bool(_COMPLETED.search(text)),
        warnings=_list_once(_WARNING.findall(text)),
    )


def _list_once(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))
