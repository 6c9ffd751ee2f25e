"""Runs on a host, sent there as text: listens on the cluster's ports, then connects to those of the other hosts.

Standard library and Python 3.6 only; writes no file. Reads lines of JSON and writes one answer for each:

    {"address": A, "ports": [P, ...]}         -> {"listening": [...], "taken": [...]}
    {"targets": [[A, P], ...], "wait_s": S}   -> {"clock": unix time, "results": ["open", "refused", ...]}

Exits when its stdin ends.
"""

import errno
import json
import resource
import selectors
import socket
import sys
import time

RESULTS = {
    errno.ECONNREFUSED: "refused",
    errno.EHOSTUNREACH: "unreachable",
    errno.ENETUNREACH: "unreachable",
    errno.ETIMEDOUT: "silent",
}


def listen(address: str, ports: "list[int]") -> "tuple[dict[int, socket.socket], list[int]]":
    """Listen on every free port; returns the sockets by port, and the ports that other programs hold."""
    held: dict[int, socket.socket] = {}  # not evaluated inside a function: fit for 3.6
    taken: list[int] = []
    for port in ports:
        listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            try:
                listener.bind((address, port))
            except OSError as error:
                if error.errno != errno.EADDRNOTAVAIL:
                    raise
                listener.bind(("", port))  # the address belongs to a machine that forwards to this one
            listener.listen(512)
            held[port] = listener
        except OSError:
            taken.append(port)
    return held, taken


def connect(targets: "list[tuple[str, int]]", wait_s: float) -> "list[str]":
    """Connect to all targets at once; returns the result of each."""
    results = ["silent"] * len(targets)
    waiting, callers = selectors.DefaultSelector(), {}
    for number, (address, port) in enumerate(targets):
        caller = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        caller.setblocking(False)
        try:
            status = caller.connect_ex((address, port))
        except OSError:  # a name that does not resolve
            status = errno.EHOSTUNREACH
        if status == errno.EINPROGRESS:
            waiting.register(caller, selectors.EVENT_WRITE, number)
            callers[number] = caller
        else:
            results[number] = "open" if status == 0 else RESULTS.get(status, "silent")
            caller.close()
    until = time.monotonic() + wait_s
    while waiting.get_map() and time.monotonic() < until:
        for key, _ in waiting.select(max(0.0, until - time.monotonic())):
            caller = callers[key.data]
            status = caller.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            results[key.data] = "open" if status == 0 else RESULTS.get(status, "silent")
            waiting.unregister(caller)
            caller.close()
    return results


def answer(**values: object) -> None:
    """Write a line."""
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Answer requests until stdin ends."""
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))  # a socket for each port of each other host
    held: dict[int, socket.socket] = {}  # not evaluated inside a function: fit for 3.6
    for line in iter(sys.stdin.readline, ""):
        request = json.loads(line)
        if "ports" in request:
            held, taken = listen(request["address"], request["ports"])
            answer(listening=sorted(held), taken=taken)
        else:
            clock = time.time()
            answer(clock=clock, results=connect(request["targets"], request["wait_s"]))


if __name__ == "__main__":
    main()
