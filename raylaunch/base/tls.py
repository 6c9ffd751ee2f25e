"""TLS as a client of OpenAI-compatible servers, our own among them."""

import functools
import ssl
from pathlib import Path


@functools.cache
def make_client_context(*, verify: bool, client_cert: tuple[Path, Path | None] | None = None) -> ssl.SSLContext:
    """One context for all connections of a process: to read the system's certificates takes some 30 ms of CPU.

    Args:
        verify: whether the server's certificate must be valid and name the host.
        client_cert: PEM files of a certificate and its key (None: both are in the first), for mTLS.

    Raises:
        OSError: the client's certificate cannot be read (ssl.SSLError is one).
    """
    context = ssl.create_default_context()
    if not verify:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if client_cert is not None:
        context.load_cert_chain(*client_cert)
    return context
