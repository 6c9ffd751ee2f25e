"""A private CA with the certificates of a server on loopback and of a client."""

import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class PrivateCa:
    """Its own certificate; certificate and key of server and client."""

    certificate: Path
    server: tuple[Path, Path]
    client: tuple[Path, Path]

    @classmethod
    def make(cls, folder: Path) -> "PrivateCa":
        """Make it in a new folder."""
        folder.mkdir()
        certificate, key = folder / "ca.pem", folder / "ca.key"
        create = [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "1",
        ]
        _run(*create, "-keyout", key, "-out", certificate, "-subj", "/CN=private CA")
        pairs = []
        for name in ("server", "client"):
            pair = folder / f"{name}.pem", folder / f"{name}.key"
            # -x509 with -CA signs with the CA's key
            signed = ["-CA", certificate, "-CAkey", key, "-addext", "subjectAltName=IP:127.0.0.1"]
            _run(*create, "-keyout", pair[1], "-out", pair[0], "-subj", f"/CN={name}", *signed,
                 "-addext", "basicConstraints=CA:FALSE")  # fmt: skip
            pairs.append(pair)
        return cls(certificate, *pairs)

    def make_server_context(self) -> ssl.SSLContext:
        """Of a server that requires a certificate of its clients."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self.certificate)
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(*self.server)
        return context


def _run(*arguments: object) -> None:
    subprocess.run([*map(str, arguments)], check=True, capture_output=True)
