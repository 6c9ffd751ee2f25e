"""A system that gives nothing more."""

import contextlib
import resource
from collections.abc import Iterator


@contextlib.contextmanager
def no_files() -> Iterator[None]:
    """This process can open no file more: no pipe, no log, no child."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
