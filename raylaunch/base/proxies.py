"""Which addresses are asked directly, whatever http_proxy says: those of this machine and of private networks."""

import contextlib
import ipaddress
import os
import socket
import urllib.request
from urllib.parse import urlsplit


def is_near(host: str) -> bool:
    """Whether a host is this machine, or has an address that is not public."""
    try:
        found = {entry[4][0] for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError):
        return False
    return any(_is_near_address(str(address)) for address in found)


def _is_near_address(address: str) -> bool:
    if not ipaddress.ip_address(address.partition("%")[0]).is_global:
        return True
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        probe.bind((address, 0))
        return True  # an address of this machine
    return False


def needs_no_proxy(url: str) -> bool:
    """Whether a proxy of this environment would take requests to `url`, which is near."""
    parts = urlsplit(url)
    return bool(urllib.request.getproxies().keys() & {parts.scheme, "all"}) and is_near(parts.hostname or "")


def find_proxy(url: str) -> str:
    """The proxy of this environment that requests to `url` go through, or "". It may hold a password."""
    parts, proxies = urlsplit(url), urllib.request.getproxies()
    host = parts.hostname or ""
    proxy = proxies.get(parts.scheme) or proxies.get("all") or ""
    return "" if not proxy or urllib.request.proxy_bypass(host) or is_near(host) else proxy


def exempt_loopback() -> None:
    """Exempt loopback from this process's proxies, for HTTP clients of others."""
    for name in ("no_proxy", "NO_PROXY"):
        hosts = [host for host in os.environ.get(name, "").split(",") if host]
        os.environ[name] = ",".join(dict.fromkeys([*hosts, "127.0.0.1", "localhost"]))
