"""Cross-origin rules of a launch's `server:` block: the headers with which a browser shows an answer to a page.

The same as Starlette's CORSMiddleware, which vLLM's app uses, gives for the same options; Retry-After is readable too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

_ALL_METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY")
_SAFE_HEADERS = ("Accept", "Accept-Language", "Content-Language", "Content-Type")
"""Browsers send them without asking."""
_PREFLIGHT_VARY = (
    "Vary: Origin, Access-Control-Request-Method, Access-Control-Request-Headers, "
    "Access-Control-Request-Private-Network"
)
_METHOD, _HEADERS = "access-control-request-method", "access-control-request-headers"
_PRIVATE_NETWORK = "access-control-request-private-network"


@dataclass(frozen=True)
class CorsRules:
    """Which pages may use the service from a browser; without origins there are no rules."""

    origins: tuple[str, ...] = ()
    """"*" stands for all."""
    methods: tuple[str, ...] = ("*",)
    headers: tuple[str, ...] = ("*",)
    credentials: bool = False

    @classmethod
    def of_server(cls, options: Mapping[str, Any]) -> Self:
        """Those of a `server:` block, with vLLM's defaults (0.32)."""
        return cls(
            tuple(options.get("allowed_origins") or ()),
            tuple(options.get("allowed_methods") or ("*",)),
            tuple(options.get("allowed_headers") or ("*",)),
            bool(options.get("allow_credentials")),
        )

    def list_lines(self, asked: Mapping[str, str]) -> list[str]:
        """Header lines for the answer to a request with these headers (by lower-case name)."""
        if "origin" not in asked or not self.origins:
            return []
        return ["Vary: Origin", "Access-Control-Expose-Headers: Retry-After", *self._list_grants(asked["origin"])]

    def _list_grants(self, origin: str) -> list[str]:
        lines = ["Access-Control-Allow-Credentials: true"] if self.credentials else []
        if self._allows(origin):
            named = "*" if "*" in self.origins and not self.credentials else origin
            lines.append(f"Access-Control-Allow-Origin: {named}")
        return lines

    def _allows(self, origin: str) -> bool:
        return "*" in self.origins or origin in self.origins

    def is_preflight(self, method: str, asked: Mapping[str, str]) -> bool:
        """Whether a browser asks what a page may send."""
        return bool(self.origins) and method == "OPTIONS" and {"origin", _METHOD} <= asked.keys()

    def judge_preflight(self, asked: Mapping[str, str]) -> tuple[list[str], list[str]]:
        """What is refused of a preflight request with these headers, and the header lines of its answer."""
        methods = _ALL_METHODS if "*" in self.methods else self.methods
        allowed = sorted({*_SAFE_HEADERS, *self.headers})
        wanted = asked.get(_HEADERS)
        lines = [_PREFLIGHT_VARY, f"Access-Control-Allow-Methods: {', '.join(methods)}", "Access-Control-Max-Age: 600"]
        refused = [] if self._allows(asked["origin"]) else ["origin"]
        refused += [] if asked[_METHOD] in methods else ["method"]
        if "*" not in self.headers:
            lines.append(f"Access-Control-Allow-Headers: {', '.join(allowed)}")
            unknown = {name.strip().lower() for name in wanted.split(",")} if wanted else set()
            refused += ["headers"] if unknown - {name.lower() for name in allowed} else []
        elif wanted is not None:
            lines.append(f"Access-Control-Allow-Headers: {wanted}")
        refused += ["private-network"] if _PRIVATE_NETWORK in asked else []
        return refused, lines + self._list_grants(asked["origin"])
