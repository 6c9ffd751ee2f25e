"""The API key on every path of vLLM's app that is not open by purpose.

vLLM guards only what begins with /v1, /v2, /inference or /cohere (0.32): without this, `/invocations`, `/pooling`,
`/score` and others run the model for clients without the key.
"""

import hmac
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from starlette.responses import JSONResponse

MIDDLEWARE = f"{__name__}.KeyGuard"
"""For vLLM's option `middleware`."""
OPEN_PATHS = frozenset(
    {"/health", "/ready", "/readyz", "/ping", "/metrics", "/version", "/load"}
    | {"/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json"}
)
"""They read, and neither run the model nor change anything. The files of the offline docs (/static/) are open, too."""
_App = Callable[[MutableMapping[str, Any], Any, Any], Awaitable[None]]
_keys: list[bytes] = []


def require_keys(keys: Sequence[str]) -> None:
    """Set this process's keys: vLLM makes the middleware, and passes it nothing. None: every path is open."""
    _keys[:] = [key.encode() for key in keys]


class KeyGuard:
    """Answers 401 as vLLM does."""

    def __init__(self, app: _App) -> None:
        """Wrap the ASGI application `app`."""
        self._app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        """Answer one request."""
        is_request = scope["type"] in ("http", "websocket") and scope.get("method") != "OPTIONS"
        if _keys and is_request and not _is_open(scope) and not _has_key(scope):
            await JSONResponse({"error": "Unauthorized"}, 401)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _is_open(scope: MutableMapping[str, Any]) -> bool:
    path = str(scope["path"]).removeprefix(scope.get("root_path", ""))
    return path.rstrip("/") in OPEN_PATHS or path.startswith("/static/")


def _has_key(scope: MutableMapping[str, Any]) -> bool:
    given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
    scheme, _, token = given.partition(b" ")
    found = [hmac.compare_digest(token, key) for key in _keys]
    return bool(scheme.lower() == b"bearer" and any(found))
