"""Waiting for a port that a program is to open."""

import socket
import threading

from raylaunch.base.ports import find_free_ports, wait_for_port


def test_wait_ends_when_the_port_accepts() -> None:
    """The port opens a moment after the wait has begun."""
    (port,) = find_free_ports(1)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", port))
        opener = threading.Timer(0.2, listener.listen)
        opener.start()
        assert wait_for_port(port, 30.0)
        opener.join()


def test_wait_ends_when_the_program_has_ended() -> None:
    """A program that is gone will not open its port: False, long before the timeout."""
    (port,) = find_free_ports(1)
    polls = iter([True, True, False])
    assert not wait_for_port(port, 600.0, lambda: next(polls))
    assert next(polls, None) is None


def test_free_ports_differ() -> None:
    assert len(set(find_free_ports(20))) == 20
