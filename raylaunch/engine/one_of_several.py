"""Refuses requests that change one process only where several serve (vLLM 0.32).

What changes the engine reaches it through any of its API servers. But to abort requests, a server looks for them among
its own; and of several replicas, one would be profiled.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.responses import JSONResponse

from raylaunch.engine.messages import SocketShare

MIDDLEWARE = f"{__name__}.Refusal"
"""For vLLM's option `middleware`."""
ABORT_PATHS = ("/abort_requests", "/inference/v1/abort_requests")
PROFILE_PATHS = ("/start_profile", "/stop_profile")
_App = Callable[[MutableMapping[str, Any], Any, Any], Awaitable[None]]
_refused: dict[str, str] = {}
"""Path -> why, in this process: vLLM makes the middleware, and passes it nothing."""


def refuse(share: SocketShare, api_servers: int) -> None:
    """Set what this process refuses.

    Args:
        api_servers: of its engine, as many as there really are.
    """
    _refused.clear()
    is_replica = share.private_fd is not None
    if api_servers > 1 or is_replica:
        why = "several processes serve this port, and each knows its own requests only: close a request's connection "
        why += "to abort it, or serve with server.api_server_count: 1" + (" and one replica" if is_replica else "")
        _refused.update(dict.fromkeys(ABORT_PATHS, why))
    if is_replica:
        why = "several replicas serve this port, and one of them would be profiled: profile with cluster.replicas: 1"
        _refused.update(dict.fromkeys(PROFILE_PATHS, why))


class Refusal:
    """Answers 501 with the reason, in the format of vLLM's errors."""

    def __init__(self, app: _App) -> None:
        """Wrap the ASGI application `app`."""
        self._app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        """Answer one request."""
        path = str(scope.get("path", "")).removeprefix(scope.get("root_path", "")).rstrip("/")
        why = _refused.get(path) if scope["type"] == "http" else None
        if why is None:
            await self._app(scope, receive, send)
            return
        error = {"message": f"{path}: {why}", "type": "NotImplementedError", "param": None, "code": 501}
        await JSONResponse({"error": error}, 501)(scope, receive, send)
