"""What NCCL says of itself at NCCL_DEBUG=INFO: the network it took, the transports, and whether it came through.

Line formats: NCCL 2.18 to 2.32 (init.cc, transport/net_socket.cc, transport/net_ib.cc, transport/p2p.cc).
"""

import re
from dataclasses import dataclass

_NETWORK = re.compile(r"NCCL INFO (?:Using network|Initialized NET plugin|Assigned NET plugin) (\S+)")
_SOCKETS = re.compile(r"NCCL INFO NET/Socket : Using (.+)")
_VERBS = re.compile(r"NCCL INFO NET/IB : Using (.+)")
_NO_VERBS = re.compile(r"NCCL INFO NET/IB : No device found|Failed to open libibverbs|NET/IB : Unable to open device")
_DISABLED = re.compile(r"NCCL_IB_DISABLE set by environment to 1")
_CHANNEL = re.compile(r"NCCL INFO Channel \d+(?:/\d+)? : (\d+)\S* -> (\d+)\S* (?:\[\w+\] )?via (\S+)")
_INTERFACE = re.compile(r"\[\d+\]([\w.@-]+):[\d.]+<\d+>")
_STARTED, _COMPLETED = re.compile(r"NCCL INFO .*Init START"), re.compile(r"NCCL INFO .*Init COMPLETE")
_WARNING = re.compile(r"NCCL WARN (.+)")


@dataclass(frozen=True, slots=True)
class NcclFacts:
    """One rank's log, read."""

    network: str
    """ "IB", "Socket" or a plugin's name; "" where no network was chosen."""
    interfaces: tuple[str, ...]
    """Interfaces of its sockets, the bootstrap's included."""
    transports: tuple[tuple[int, int, str], ...]
    """From rank, to rank, transport: "P2P/CUMEM", "SHM/direct/direct", "NET/Socket/0", "NET/IB/0/GDRDMA"."""
    has_no_verbs: bool
    """Whether NCCL looked for InfiniBand and found no device."""
    is_ib_disabled: bool
    has_started: bool
    is_complete: bool
    """Whether the communicator was set up; a rank that has started and is not complete is where a start hangs."""
    warnings: tuple[str, ...]

    def list_kinds(self) -> tuple[str, ...]:
        """The kinds of transport in use: "P2P", "SHM", "NET/Socket", "NET/IB"."""
        kinds = (
            "/".join(name.split("/")[:2]) if name.startswith("NET") else name.split("/")[0]
            for _, _, name in self.transports
        )
        return tuple(dict.fromkeys(kinds))


def read_nccl_log(text: str) -> NcclFacts:
    """Read one rank's log."""
    network = [match[1] for match in _NETWORK.finditer(text)]
    sockets = " ".join(match[1] for match in _SOCKETS.finditer(text))
    bootstrap = " ".join(re.findall(r"Bootstrap ?:? Using (\S+)", text))
    named = _INTERFACE.findall(sockets) + re.findall(r"([\w.@-]+):[\d.]+<\d+>", bootstrap)
    return NcclFacts(
        network=network[-1] if network else ("IB" if _VERBS.search(text) else ""),
        interfaces=tuple(dict.fromkeys(named)),
        transports=tuple(dict.fromkeys((int(m[1]), int(m[2]), m[3]) for m in _CHANNEL.finditer(text))),
        has_no_verbs=bool(_NO_VERBS.search(text)),
        is_ib_disabled=bool(_DISABLED.search(text)),
        has_started=bool(_STARTED.search(text)),
        is_complete=bool(_COMPLETED.search(text)),
        warnings=tuple(dict.fromkeys(_WARNING.findall(text))),
    )
