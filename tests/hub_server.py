"""A model hub on loopback: real HTTP, as much of the Hugging Face Hub's API as its client asks for."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass(frozen=True)
class Request:
    """What a client asked."""

    method: str
    path: str
    range: str | None
    authorization: str | None


@dataclass
class Hub:
    """One repo, and how the hub answers for it."""

    repo: str
    files: dict[str, bytes]
    url: str = ""
    refuse_all: tuple[int, str] | None = None
    """Status and X-Error-Code for whatever is asked."""
    refuse_files: tuple[int, str] | None = None
    """The same for the files alone: a gated repo shows its listing."""
    hold_after_bytes: int | None = None
    """Stop in the middle of any longer answer until `released`."""
    claimed_size: int | None = None
    """Size that the listing claims for every file."""
    released: threading.Event = field(default_factory=threading.Event)
    requests: list[Request] = field(default_factory=list)

    def asked_for(self, name: str, method: str = "GET") -> list[Request]:
        """Requests for one file of the repo."""
        return [seen for seen in self.requests if seen.method == method and seen.path.endswith(f"/{COMMIT}/{name}")]


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Serve `hub` on a free port while the block runs."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.released.set()
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def _answer(self, *, with_body: bool) -> None:
        hub, path = self.hub, self.path.partition("?")[0]
        asked = Request(self.command, path, self.headers.get("Range"), self.headers.get("Authorization"))
        hub.requests.append(asked)
        if hub.refuse_all:
            self._refuse(*hub.refuse_all)
        elif path == "/api/models":
            self._send(b"[]", with_body=with_body)
        elif path in {f"/api/models/{hub.repo}", f"/api/models/{hub.repo}/revision/{COMMIT}"}:
            listing = {"id": hub.repo, "sha": COMMIT, "siblings": [{"rfilename": name} for name in hub.files]}
            self._send(json.dumps(listing).encode(), with_body=with_body)
        elif path == f"/api/models/{hub.repo}/tree/{COMMIT}":
            self._send(json.dumps([self._describe(name) for name in hub.files]).encode(), with_body=with_body)
        elif path.startswith(f"/{hub.repo}/resolve/{COMMIT}/"):
            self._send_file(path.rpartition(f"/{COMMIT}/")[2], asked, with_body=with_body)
        else:
            in_repo = path.startswith((f"/api/models/{hub.repo}/", f"/{hub.repo}/"))
            self._refuse(404, "RevisionNotFound" if in_repo else "RepoNotFound")

    def _describe(self, name: str) -> dict[str, Any]:
        body = self.hub.files[name]
        entry: dict[str, Any] = {
            "type": "file",
            "path": name,
            "size": self.hub.claimed_size or len(body),
            "oid": _git_id(body),
        }
        if name.endswith(".safetensors"):
            entry["lfs"] = {"oid": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 134}
        return entry

    def _send_file(self, name: str, asked: Request, *, with_body: bool) -> None:
        if self.hub.refuse_files:
            self._refuse(*self.hub.refuse_files)
            return
        body = self.hub.files[name]
        tag = hashlib.sha256(body).hexdigest() if name.endswith(".safetensors") else _git_id(body)
        start = int(asked.range.removeprefix("bytes=").partition("-")[0]) if asked.range else 0
        headers = {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if asked.range:
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        self._send(body[start:], with_body=with_body, status=206 if asked.range else 200, headers=headers)

    def _send(self, body: bytes, *, with_body: bool, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (
            {"Content-Length": str(len(body)), "Content-Type": "application/json"} | (headers or {})
        ).items():
            self.send_header(name, value)
        self.end_headers()
        if not with_body:
            return
        hold = self.hub.hold_after_bytes
        try:
            if hold is not None and len(body) > hold and not self.hub.released.is_set():
                self.wfile.write(body[:hold])
                self.hub.released.wait(120)
                body = body[hold:]
            self.wfile.write(body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the client is gone: a test of interruptions wants that

    def _refuse(self, status: int, code: str) -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": code} if code else {}
        self._send(b"{}", with_body=self.command == "GET", status=status, headers=headers)


def _git_id(body: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()
