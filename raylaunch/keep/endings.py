"""Ends that nobody waits for, until the very end."""

import threading
from collections.abc import Callable


class Endings:
    """Each runs in a thread of its own."""

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []

    def begin(self, end: Callable[[], object]) -> None:
        """Run `end`, without waiting for it."""
        thread = threading.Thread(target=end, name="ending")
        thread.start()
        self._threads = [*(one for one in self._threads if one.is_alive()), thread]

    def wait(self) -> None:
        """Wait until all have run."""
        for thread in self._threads:
            thread.join()
        self._threads.clear()
