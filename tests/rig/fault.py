"""A fault of a host: how it is made, how it is undone, and how doctor has to report it."""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

from tests.rig.host import Host
from tests.rig.laptop import Laptop

Make = Callable[[Laptop, Host], AbstractContextManager[None]]


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong on a host, and how doctor has to report it."""

    name: str
    make: Make
    where: str
    """"head" or "worker"."""
    check: str
    """The one check that fails."""
    what: str
    """Part of its text; HEAD stands for the head's address."""
    fix: str
    """Part of its fix."""


FAULTS: list[Fault] = []


def fault(
    name: str, where: str, check: str, what: str, fix: str
) -> Callable[[Callable[[Laptop, Host], Iterator[None]]], None]:
    """Put what is decorated into FAULTS: it makes the fault, yields, and undoes it."""

    def register(make: Callable[[Laptop, Host], Iterator[None]]) -> None:
        FAULTS.append(Fault(name, contextlib.contextmanager(make), where, check, what, fix))

    return register


@contextlib.contextmanager
def undone(host: Host, command: str) -> Iterator[None]:
    """Run a command on the host afterwards, whatever happens."""
    try:
        yield
    finally:
        host.run(command)


def worker_fault(name: str, check: str, what: str, fix: str, *, make: str, undo: str) -> None:
    """Put a fault into FAULTS that one command on the worker makes and one undoes; LAPTOP is this machine's address."""

    def run(laptop: Laptop, host: Host) -> Iterator[None]:
        host.run(make.replace("LAPTOP", laptop.rig.laptop_address))
        with undone(host, undo):
            yield

    fault(name, "worker", check, what, fix)(run)
