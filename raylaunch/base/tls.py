"""TLS as a client of OpenAI-compatible servers, our own among them."""

import contextlib
import functools
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from raylaunch.base.errors import RaylaunchError

CertificateFiles = tuple[Path, Path | None]
"""PEM files of a certificate and its key; None: both are in the first."""


class CertificateFileError(RaylaunchError):
    """A file of certificates or keys cannot be used."""


@dataclass(frozen=True)
class ClientTls:
    """How a server's certificate is checked, and the one that is shown to it."""

    verify: bool = True
    """Whether the server's certificate must be valid and name the host."""
    ca_file: Path | None = None
    """PEM file of the CAs that count; None: the system's, or those of SSL_CERT_FILE."""
    client_cert: CertificateFiles | None = None
    """For servers that require one (mTLS)."""

    def for_own(self, client_cert: CertificateFiles | None) -> "ClientTls":
        """For a service of our own, whose certificate need not name this machine: only a CA file checks it."""
        return replace(self, verify=self.ca_file is not None, client_cert=self.client_cert or client_cert)

    @property
    def has_files(self) -> bool:
        """Whether it needs files of this machine."""
        return self.ca_file is not None or self.client_cert is not None


SYSTEM_TLS = ClientTls()
"""With the system's CAs."""


@functools.cache
def make_client_context(options: ClientTls) -> ssl.SSLContext:
    """One context for all connections of a process: to read the system's certificates takes some 30 ms of CPU.

    Raises:
        CertificateFileError: a file is missing, is no PEM file of its kind, or the key needs a passphrase.
    """
    with naming(options.ca_file):
        context = ssl.create_default_context(cafile=options.ca_file)
    if not options.verify:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if options.client_cert is not None:
        certificate, key = options.client_cert
        load_pair(context, certificate, key)
    return context


def load_pair(context: ssl.SSLContext, certificate: Path, key: Path | None) -> None:
    """Load a certificate and its key.

    Raises:
        CertificateFileError: as make_client_context.
    """
    with naming(certificate):  # so that its fault is not taken for one of the key
        ssl.create_default_context(cafile=certificate)
    with naming(key or certificate):
        context.load_cert_chain(certificate, key, password=lambda: "")  # a prompt would wait for ever


@contextlib.contextmanager
def naming(path: Path | None) -> Iterator[None]:
    """Name the file in what the ssl module raises."""
    try:
        yield
    except ssl.SSLError as error:
        reason = (error.reason or "").replace("_", " ").lower()
        words = reason or "it has no key in PEM format without a passphrase"
        raise CertificateFileError(f"cannot use {path}: {words}") from error
    except OSError as error:
        raise CertificateFileError(f"cannot read {path}: {error.strerror or error}") from error
