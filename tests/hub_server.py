"""A model hub on loopback: real HTTP, as much of the Hugging Face Hub's API as its client asks for."""

import functools
import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_WRITE_BYTES = 64 << 10
_CUT_ABOVE_BYTES = 1024


@dataclass
class Request:
    """What a client asked, and how much of the answer's body was written to it."""

    method: str
    path: str
    range: str | None
    authorization: str | None
    sent: int = 0

    @property
    def start(self) -> int:
        """First byte that was asked for."""
        return int(self.range.removeprefix("bytes=").partition("-")[0]) if self.range else 0


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
    refuse_next: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    """Status and headers for the next requests for files, one each."""
    hold_after_bytes: int | None = None
    """Stop in the middle of any longer answer until `released`."""
    cut_after_bytes: list[int] = field(default_factory=list)
    """Hang up after so many bytes of the next answers with a file of more than 1 kB, one each."""
    pace_bytes_s: float | None = None
    """Rate of each answer with a file; may be changed meanwhile."""
    claimed_size: int | None = None
    """Size that the listing claims for every file."""
    sends_instead: dict[str, bytes] = field(default_factory=dict)
    """Other bytes than those of the listing."""
    knows_ranges: bool = True
    redirects: bool = False
    """Answer for a file with the address of another host that has it."""
    released: threading.Event = field(default_factory=threading.Event)
    requests: list[Request] = field(default_factory=list)

    def asked_for(self, name: str, method: str = "GET") -> list[Request]:
        """Requests for one file of the repo."""
        return [seen for seen in self.requests if seen.method == method and seen.path.endswith(f"/{COMMIT}/{name}")]

    def count_sent(self) -> int:
        """Bytes of files that went out."""
        return sum(seen.sent for seen in self.requests if f"/{COMMIT}/" in seen.path and "/api/" not in seen.path)


@contextmanager
def serve(hub: Hub, host: str = "127.0.0.1") -> Iterator[Hub]:
    """Serve `hub` on a free port while the block runs."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer((host, 0), handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign] (a client that is killed hangs up)
    hub.url = f"http://{host}:{server.server_port}"
    # Its shutdown() waits for the next poll: half a second by default.
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
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
    asked: Request

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def _answer(self, *, with_body: bool) -> None:
        hub, path = self.hub, self.path.partition("?")[0]
        self.asked = Request(self.command, path, self.headers.get("Range"), self.headers.get("Authorization"))
        hub.requests.append(self.asked)
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
            self._send_file(path.rpartition(f"/{COMMIT}/")[2], with_body=with_body)
        elif path.startswith(f"/elsewhere/{COMMIT}/"):
            self._send_content(path.rpartition(f"/{COMMIT}/")[2], with_body=with_body)
        else:
            in_repo = path.startswith((f"/api/models/{hub.repo}/", f"/{hub.repo}/"))
            self._refuse(404, "RevisionNotFound" if in_repo else "RepoNotFound")

    def _describe(self, name: str) -> dict[str, Any]:
        body = self.hub.files[name]
        sha256, git_id = _hash(body)
        entry: dict[str, Any] = {
            "type": "file",
            "path": name,
            "size": self.hub.claimed_size or len(body),
            "oid": git_id,
        }
        if name.endswith(".safetensors"):
            entry["lfs"] = {"oid": sha256, "size": len(body), "pointerSize": 134}
        return entry

    def _send_file(self, name: str, *, with_body: bool) -> None:
        hub = self.hub
        if hub.refuse_files:
            self._refuse(*hub.refuse_files)
        elif hub.refuse_next:
            status, headers = hub.refuse_next.pop(0)
            self._send(b"{}", with_body=with_body, status=status, headers=headers)
        elif hub.redirects:
            elsewhere = re.sub("127.0.0.1", "localhost", hub.url)
            self._send(
                b"",
                with_body=False,
                status=302,
                headers={"Location": f"{elsewhere}/elsewhere/{COMMIT}/{name}?signed=1"},
            )
        else:
            self._send_content(name, with_body=with_body)

    def _send_content(self, name: str, *, with_body: bool) -> None:
        body = memoryview(self.hub.sends_instead.get(name, self.hub.files[name]))
        tag = hashlib.sha256(name.encode()).hexdigest()
        ranged = self.asked.range is not None and self.hub.knows_ranges
        start = self.asked.start if ranged else 0
        headers = {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if ranged:
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        self._send(body[start:], with_body=with_body, status=206 if ranged else 200, headers=headers, is_file=True)

    def _send(
        self, body: bytes | memoryview, *, with_body: bool, status: int = 200, headers: dict[str, str] | None = None,
        is_file: bool = False,
    ) -> None:  # fmt: skip
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
                self._write(body[:hold])
                self.hub.released.wait(120)
                body = body[hold:]
            if is_file and len(body) > _CUT_ABOVE_BYTES and self.hub.cut_after_bytes:
                self._write(body[: self.hub.cut_after_bytes.pop(0)])
                self.close_connection = True
                return
            self._write(body, is_paced=is_file)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the client is gone: a test of interruptions wants that

    def _write(self, body: bytes | memoryview, *, is_paced: bool = False) -> None:
        view = memoryview(body)
        while view:
            piece, view = view[:_WRITE_BYTES], view[_WRITE_BYTES:]
            self.wfile.write(piece)
            self.asked.sent += len(piece)
            if is_paced and self.hub.pace_bytes_s:
                time.sleep(len(piece) / self.hub.pace_bytes_s)

    def _refuse(self, status: int, code: str) -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": code} if code else {}
        self._send(b"{}", with_body=self.command == "GET", status=status, headers=headers)


@functools.lru_cache
def _hash(body: bytes) -> tuple[str, str]:
    """SHA-256 of a file, and git's id of it."""
    return hashlib.sha256(body).hexdigest(), hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()
