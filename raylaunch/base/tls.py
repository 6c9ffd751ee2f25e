"""TLS as a client of OpenAI-compatible servers, our own among them."""

import functools
import ssl


@functools.cache
def make_client_context(*, verify: bool) -> ssl.SSLContext:
    """One context for all connections of a process: to read the system's certificates takes some 30 ms of CPU.

    Args:
        verify: whether the server's certificate must be valid and name the host.
    """
    context = ssl.create_default_context()
    if not verify:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context
