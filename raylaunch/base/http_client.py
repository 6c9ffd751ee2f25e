"""Requests to OpenAI-compatible servers, our own among them: proxies, redirects, and why a request failed.

Addresses of this machine and of private networks are asked directly, whatever http_proxy says: a cluster's own traffic
never goes through a proxy. Redirects are followed to the same host only, with method, body and key.
"""

import errno
import http.client
import json
import re
import socket
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass
from enum import Enum
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

from raylaunch.base.errors import RaylaunchError
from raylaunch.base.proxies import find_proxy, is_near
from raylaunch.base.text import escape
from raylaunch.base.text import quote as quote_text
from raylaunch.base.tls import SYSTEM_TLS, CertificateFileError, CertificateFiles, ClientTls, make_client_context

_MAX_REDIRECTS = 5
_MAX_JSON_BYTES = 64 << 20
_ENDPOINT = re.compile(r"(/v1(/.*)?|/(chat/completions|completions|embeddings|models|responses|health|metrics))/*$")
_UNFIT = (9, 10, 62, 64)  # OpenSSL's codes (x509_vfy.h): not yet valid, expired, another host name, another address
_KEY = re.compile(r"[!-~]([ -~]*[!-~])?")


class HttpFailure(Enum):
    """Why a request failed, so that callers can say what to do."""

    URL = "no URL of a server"
    NAME = "the name does not resolve"
    REFUSED = "nothing listens there"
    SILENT = "no answer in time"
    UNREACHABLE = "no way there"
    CERTIFICATE = "the server's certificate is not trusted"
    CERTIFICATE_UNFIT = "the server's certificate is not valid today, or is another host's"
    CLIENT_CERTIFICATE = "the server requires a client certificate"
    CERTIFICATE_FILE = "a file of certificates cannot be used"
    BROKEN = "the connection broke"
    TLS_CLOSED = "TLS, then closed without an answer"
    STATUS = "an HTTP error"
    CONTENT = "an answer that no OpenAI-compatible server gives"
    KEY = "an API key that no header can carry"


TLS_FIXES = {
    HttpFailure.CERTIFICATE: "name its CA with --cacert CA.pem (or SSL_CERT_FILE), or add --insecure to trust it",
    HttpFailure.CERTIFICATE_UNFIT: "correct the URL's host or the server's certificate; --insecure asks in spite of it",
    HttpFailure.CLIENT_CERTIFICATE: "name a certificate that it accepts with --cert CERT.pem and --key KEY.pem",
    HttpFailure.TLS_CLOSED: "if it requires a client certificate, name one that it accepts, valid today and for "
    "clients, with --cert CERT.pem and --key KEY.pem",
    HttpFailure.CERTIFICATE_FILE: "correct --cacert, --cert or --key",
}
"""What to do in the verbs that ask any server."""


class RequestError(RaylaunchError):
    """A request failed; `what` is one sentence, `status` the HTTP status where there was one."""

    def __init__(self, kind: HttpFailure, what: str, *, status: int = 0, words: str = "") -> None:
        super().__init__(what)
        self.kind, self.status, self.words = kind, status, words

    @property
    def is_passing(self) -> bool:
        """Whether the server may answer the same request later: it starts, is busy or failed."""
        return self.status == HTTPStatus.TOO_MANY_REQUESTS or self.status >= HTTPStatus.INTERNAL_SERVER_ERROR


@dataclass(frozen=True)
class Access:
    """How a server is asked."""

    timeout_s: float
    """Longest silence."""
    api_key: str | None = None
    tls: ClientTls = SYSTEM_TLS
    may_use_proxy: bool = True
    """Whether http_proxy counts, towards addresses that are not near."""

    def __repr__(self) -> str:
        return f"Access({self.timeout_s} s)"  # never the key


def find_base_url(url: str) -> str:
    """The URL of a server, without /v1 and without the path of an endpoint.

    Raises:
        RequestError: it is no URL of a server.
    """
    text = url.strip()
    text = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(text)
        is_server = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        if is_server and parts.hostname:
            parts.hostname.encode("idna" if not parts.hostname.isascii() else "ascii")
    except ValueError:
        is_server = False
    if not is_server or any(char.isspace() or not char.isprintable() for char in text):
        raise RequestError(HttpFailure.URL, f"{hide_password(url)!r} is not a URL of a server")
    if "@" in parts.netloc:
        what = f"{hide_password(text)} had a user name or password, which raylaunch does not send: an API key is all"
        raise RequestError(HttpFailure.URL, what)
    path = quote(_ENDPOINT.sub("", parts.path.rstrip("/")), safe="/%:@!$&'()*+,;=~")
    return f"{parts.scheme}://{parts.netloc}{path}"


def hide_password(url: str) -> str:
    """A URL without what may be a password in it."""
    return re.sub(r"(?<=://)[^/@\s]*@", "", url)


def open_url(url: str, access: Access, body: bytes | None = None) -> http.client.HTTPResponse:
    """Send a GET, or a POST with `body`; returns the answer, whose body is not read yet.

    Raises:
        RequestError: there is no answer, or one that is no success.
    """
    if access.api_key is not None and not _KEY.fullmatch(access.api_key):
        raise RequestError(HttpFailure.KEY, "the API key has characters that no HTTP header can carry")
    opener = _make_opener(url, access)
    for _ in range(_MAX_REDIRECTS + 1):
        try:
            request = urllib.request.Request(url, body, {"Content-Type": "application/json", "Accept": "*/*"})
            if access.api_key is not None:
                request.add_unredirected_header("Authorization", f"Bearer {access.api_key}")
            answer: http.client.HTTPResponse = opener.open(request, timeout=access.timeout_s)
        except urllib.error.HTTPError as error:
            with error:
                where = error.headers.get("Location", "")
                if error.code not in (301, 302, 307, 308) or not where:
                    raise _describe_status(url, error) from error
            url = _follow(url, where)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise explain(error, url, access.timeout_s, by_proxy=access.may_use_proxy) from error
        else:
            return answer
    raise RequestError(HttpFailure.BROKEN, f"{url} redirects again and again")


def request_json(url: str, access: Access, body: bytes | None = None) -> tuple[Any, str]:
    """The JSON of an answer, and the URL that gave it (another one after a redirect).

    Raises:
        RequestError: there is no answer, one that is no success, or one that is no JSON.
    """
    try:
        with open_url(url, access, body) as answer:
            return read_json(answer, url), answer.geturl()
    except (OSError, http.client.HTTPException) as error:
        raise explain(error, url, access.timeout_s) from error


def fetch_text(url: str, timeout_s: float, client_cert: CertificateFiles | None = None) -> str | None:
    """The text that one of our own services answers; None where there is no answer, or an HTTP error."""
    access = Access(timeout_s, tls=ClientTls(verify=False, client_cert=client_cert), may_use_proxy=False)
    try:
        with open_url(url, access) as answer:
            return answer.read().decode(errors="replace")
    except (RequestError, OSError, http.client.HTTPException):
        return None


def explain(error: Exception, url: str, timeout_s: float, *, by_proxy: bool = True) -> RequestError:
    """Why a request failed, in one sentence; by_proxy: the environment's proxy was asked, where there is one."""
    reason = getattr(error, "reason", error)
    cause = reason if isinstance(reason, Exception) else error
    url = hide_password(url)
    if isinstance(cause, ssl.SSLCertVerificationError):
        kind = HttpFailure.CERTIFICATE_UNFIT if cause.verify_code in _UNFIT else HttpFailure.CERTIFICATE
        return RequestError(kind, f"the certificate of {url} is not trusted: {cause.verify_message}")
    if url.startswith("https:") and isinstance(cause, ssl.SSLEOFError | ConnectionResetError):
        # So do uvicorn (0.54) where a client certificate is missing: TLS 1.3 refuses after the handshake
        return RequestError(HttpFailure.TLS_CLOSED, f"{url} closed the TLS connection before its answer was complete")
    if isinstance(cause, ssl.SSLError):
        return _explain_tls(cause, url)
    proxy = hide_password(find_proxy(url)) if by_proxy else ""
    if proxy and isinstance(cause, ConnectionRefusedError | socket.gaierror):
        words = f"{cause.strerror}; no_proxy={urlsplit(url).hostname} asks it directly"
        return RequestError(HttpFailure.UNREACHABLE, f"no way to {url} through the proxy {proxy}: {words}")
    if isinstance(cause, TimeoutError):
        return RequestError(HttpFailure.SILENT, f"no answer from {url} within {timeout_s:g} s")
    if isinstance(cause, ConnectionRefusedError):
        return RequestError(HttpFailure.REFUSED, f"connection refused by {url}")
    if isinstance(cause, socket.gaierror):
        return RequestError(HttpFailure.NAME, f"{urlsplit(url).hostname} does not resolve: {cause.strerror}")
    if isinstance(cause, http.client.RemoteDisconnected | ConnectionError | http.client.IncompleteRead):
        return RequestError(HttpFailure.BROKEN, f"{url} closed the connection before its answer was complete")
    if isinstance(cause, http.client.HTTPException):
        return RequestError(HttpFailure.CONTENT, f"{url} did not answer in HTTP ({type(cause).__name__})")
    if isinstance(cause, OSError):
        words = cause.strerror or str(cause)
        is_far = cause.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL)
        kind = HttpFailure.UNREACHABLE if is_far else HttpFailure.BROKEN
        return RequestError(kind, f"{'no route to' if is_far else 'cannot connect to'} {url}: {words}")
    return RequestError(HttpFailure.URL, f"{url!r} is not a URL that can be asked: {cause}")


def _explain_tls(error: ssl.SSLError, url: str) -> RequestError:
    reason = error.reason or ""
    if "_ALERT_" in reason and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason):
        verb = "requires a client certificate (mTLS)" if "REQUIRED" in reason else "rejects the client certificate"
        return RequestError(HttpFailure.CLIENT_CERTIFICATE, f"{url} {verb}: {reason.lower()}")
    if reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"):
        return RequestError(HttpFailure.BROKEN, f"{url} speaks no TLS; try http://")
    return RequestError(HttpFailure.BROKEN, f"no TLS connection to {url}: {reason.lower() or error}")


def describe_error(error: Any) -> str:
    """A server's error in one line: its message where it has one."""
    if isinstance(error, dict):
        inner = error.get("error") or error.get("message") or error.get("detail")
        return describe_error(inner or json.dumps(error, ensure_ascii=False))
    text = error if isinstance(error, str) else json.dumps(error, ensure_ascii=False)
    return escape(" ".join(text.split())[:200])


def _make_opener(url: str, access: Access) -> urllib.request.OpenerDirector:
    handlers: list[urllib.request.BaseHandler] = [_NoRedirects()]
    if url.startswith("https:"):
        try:
            context = make_client_context(access.tls)
        except CertificateFileError as error:
            raise RequestError(HttpFailure.CERTIFICATE_FILE, error.what) from error
        handlers.append(urllib.request.HTTPSHandler(context=context))
    if not access.may_use_proxy or (urllib.request.getproxies() and is_near(urlsplit(url).hostname or "")):
        handlers.append(urllib.request.ProxyHandler({}))
    return urllib.request.build_opener(*handlers)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Leave redirects to `open_url`."""


def _follow(url: str, location: str) -> str:
    """Where a redirect goes; the same host only, and never from TLS to plain HTTP: the key goes along."""
    where = urljoin(url, location)
    old, new = urlsplit(url), urlsplit(where)
    if (
        old.hostname != new.hostname
        or new.scheme not in ("http", "https")
        or (old.scheme, new.scheme) == ("https", "http")
    ):
        raise RequestError(
            HttpFailure.CONTENT, f"{url} redirects to {hide_password(where)}; give that URL if it is right"
        )
    return where


def _describe_status(url: str, error: urllib.error.HTTPError) -> RequestError:
    try:
        content = error.read(_MAX_JSON_BYTES)
    except (OSError, http.client.HTTPException):
        content = b""
    words = _find_words(content) or str(error.reason)
    return RequestError(
        HttpFailure.STATUS,
        f"{hide_password(url)} answered HTTP {error.code}: {words}",
        status=error.code,
        words=words,
    )


def _find_words(content: bytes) -> str:
    """What a server says of an error; nothing of an HTML page."""
    text = content.decode(errors="replace").strip()
    if text.startswith("<"):
        return ""
    try:
        return describe_error(json.loads(text))
    except (ValueError, RecursionError):
        return describe_error(text)


def read_json(answer: http.client.HTTPResponse, url: str) -> Any:
    """The JSON of an answer.

    Raises:
        RequestError: it is no JSON.
    """
    content = answer.read(_MAX_JSON_BYTES)
    if answer.length and len(content) < _MAX_JSON_BYTES:  # with a limit, http.client accepts fewer bytes than promised
        raise explain(http.client.IncompleteRead(content), url, 0.0)
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        is_page = content.lstrip()[:1] == b"<"
        got = "an HTML page" if is_page else quote_text(content[:60].decode(errors="replace")) if content else "nothing"
        raise RequestError(
            HttpFailure.CONTENT, f"{hide_password(url)} is no OpenAI-compatible server: it answered {got}"
        ) from None
