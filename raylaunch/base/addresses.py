"""Hosts by name and by number: one machine may be written in several ways."""

import contextlib
import socket
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from ipaddress import ip_address

_TIMEOUT_S = 3.0
"""Longest wait for all names together; one that has not resolved by then counts as unknown."""


def is_address(host: str) -> bool:
    """Whether a host is given by a number, and not by a name."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def resolve(hosts: Sequence[str]) -> dict[str, frozenset[str]]:
    """The addresses of each host as this machine resolves them; none for a name that it cannot resolve."""
    found = {host: frozenset({str(ip_address(host))}) if is_address(host) else frozenset() for host in hosts}

    def look_up(name: str) -> None:
        with contextlib.suppress(OSError, UnicodeError):
            found[name] = frozenset(
                str(entry[4][0]) for entry in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
            )

    threads = [threading.Thread(target=look_up, args=(host,), daemon=True) for host in found if not is_address(host)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + _TIMEOUT_S
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return dict(found)


def find_addresses(own: Mapping[str, frozenset[str]]) -> dict[str, frozenset[str]]:
    """The addresses that stand for each host: as its name resolves here, and those of its interfaces that no other has.

    Args:
        own: host -> addresses of its interfaces; docker's bridge has the same one everywhere.
    """
    seen = Counter(address for addresses in own.values() for address in addresses)
    resolved = resolve([*own])
    return {host: resolved[host] | {one for one in found if seen[one] == 1} for host, found in own.items()}
