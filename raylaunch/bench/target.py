"""The server under load: where it is, which model it serves, whether its key fits; asked before a load begins."""

import json
import os
import socket
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from raylaunch.base import http_client
from raylaunch.base.errors import BenchError, LaunchFileError
from raylaunch.base.http_client import TLS_FIXES, Access, HttpFailure, RequestError
from raylaunch.base.ports import ALL_INTERFACES
from raylaunch.base.proxies import find_proxy
from raylaunch.base.tls import SYSTEM_TLS, ClientTls
from raylaunch.base.viewpoint import Viewpoint
from raylaunch.bench.connection import ServerAddress
from raylaunch.bench.http_response import make_head

if TYPE_CHECKING:
    from raylaunch.config.launch import LaunchConfig
    from raylaunch.serve.service_record import Service


_NO_WAY = (HttpFailure.NAME, HttpFailure.REFUSED, HttpFailure.SILENT, HttpFailure.UNREACHABLE)


def _advise_start() -> str:
    return f"start one with `{Viewpoint.of_this_process().command('serve', 'LAUNCH.yaml')}`, or give its URL with --url"


@dataclass(frozen=True)
class Target:
    """An OpenAI-compatible server."""

    url: str
    """Without /v1."""
    model: str = ""
    api_key: str | None = None
    tls: ClientTls = SYSTEM_TLS
    on_all_interfaces: bool = False
    """Whether it listens on all of this machine's addresses, though the URL names loopback."""
    timeout_s: float = 10.0
    """Longest wait for an answer before the load."""

    def __repr__(self) -> str:
        return f"Target({self.url}, {self.model})"  # never the key

    @property
    def host(self) -> str:
        """Name or address of the server."""
        return urlsplit(self.url).hostname or ""

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it by this URL."""
        return self.host == "localhost" or self.host.startswith("127.") or self.host == "::1"

    def seen_from_afar(self, ip: str) -> "Target":
        """The same server by an address of this machine that others reach."""
        parts = urlsplit(self.url)
        host = f"[{ip}]" if ":" in ip else ip
        return replace(self, url=parts._replace(netloc=f"{host}:{parts.port}").geturl())

    def find_addresses(self) -> tuple[ServerAddress, ...]:
        """Addresses of the host, in the resolver's order.

        Raises:
            BenchError: the name does not resolve, or the URL is none.
        """
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise BenchError(f"{self.url} is not a URL of a server", fix="as in --url http://10.0.0.1:8080")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise BenchError(f"{parts.hostname} does not resolve: {error.strerror}", fix="correct --url") from error
        name = parts.hostname if parts.scheme == "https" else None
        return tuple(ServerAddress(family, sockaddr, name, self.tls) for family, _, _, _, sockaddr in found)

    def make_head(self, path: str) -> bytes:
        """The head of every request to `path` (as "/v1/completions")."""
        parts = urlsplit(self.url)
        headers = {
            "Content-Type": "application/json",
            "Accept": "*/*",
            "Accept-Encoding": "identity",
            "User-Agent": "raylaunch-bench",
        }
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        return make_head("POST", parts.netloc.rpartition("@")[2], parts.path.rstrip("/") + path, headers)

    def ask(self, path: str, body: Any = None) -> Any:
        """One request to the server, its JSON decoded.

        Raises:
            RequestError: no answer, an error, or no JSON.
        """
        content = None if body is None else json.dumps(body).encode()
        return http_client.request_json(self.url + path, self._access, content)[0]

    def resolve_redirect(self, path: str) -> tuple[Any, "Target"]:
        """What `ask` returns, and the server at the URL that it redirected to."""
        answer, url = http_client.request_json(self.url + path, self._access)
        return answer, replace(self, url=url.removesuffix(path)) if url.endswith(path) else self

    @property
    def _access(self) -> Access:
        return Access(self.timeout_s, self.api_key, self.tls, may_use_proxy=False)  # as the load itself

    def explain(self, error: RequestError) -> BenchError:
        """A failed request in one sentence, and what to do."""
        if error.status in (401, 403):
            return BenchError(
                f"{self.url} refuses " + ("this API key" if self.api_key else "requests without an API key"),
                fix="set RAYLAUNCH_SERVER__API_KEY (or OPENAI_API_KEY) to the key the server was started with",
            )
        fixes = {
            **TLS_FIXES,
            HttpFailure.SILENT: "--timeout waits longer",
            HttpFailure.CONTENT: "correct --url: the address of an OpenAI-compatible server, without /v1",
            HttpFailure.STATUS: "correct --url: the address of an OpenAI-compatible server, without /v1",
        }
        if error.is_passing:
            fixes[HttpFailure.STATUS] = f"try again; `{Viewpoint.of_this_process().command('status')}` shows its state"
        if error.kind in _NO_WAY and (proxy := find_proxy(self.url)):
            what = f"{error.what}; it was asked directly, not through the proxy {http_client.hide_password(proxy)}"
            return BenchError(what, fix="run bench where the server can be reached: a proxy would be measured with it")
        return BenchError(error.what, fix=fixes.get(error.kind) or _advise_start())


def find_target(
    *,
    launch: "LaunchConfig | None",
    url: str | None,
    port: int | None,
    model: str | None,
    tls: ClientTls = SYSTEM_TLS,
    timeout_s: float = 10.0,
) -> Target:
    """The server by --url, else by the launch file, else the one that runs here.

    Args:
        tls: for a service of our own, whose certificate need not name this machine, only what it says in addition.

    Raises:
        RaylaunchError: there is none.
    """
    key = os.environ.get("RAYLAUNCH_SERVER__API_KEY") or os.environ.get("OPENAI_API_KEY")
    if url:
        try:
            where = http_client.find_base_url(url)
        except RequestError as error:
            raise BenchError(error.what, fix="as in --url http://10.0.0.1:8080") from error
        found = Target(where, model or "", key, tls)
    elif launch is not None:
        from raylaunch.serve.service_record import make_url

        where = make_url(launch.host, launch.port, tls=launch.uses_tls)
        key = key or next(iter(launch.api_keys), None)
        everywhere = launch.host in ALL_INTERFACES
        found = Target(where, model or launch.served_model_names[0], key, tls.for_own(launch.client_cert), everywhere)
    else:
        from raylaunch.serve.service_record import find_service

        service = find_service(port)
        key = key or _find_key(service)
        own, everywhere = tls.for_own(service.client_cert), service.host in ALL_INTERFACES
        found = Target(service.url, model or service.models[0], key, own, everywhere)
    return check_target(replace(found, timeout_s=timeout_s))


def _find_key(service: "Service") -> str | None:
    """The API key in the launch file that the service was started with, where it needs one."""
    if not service.needs_api_key or service.launch_file is None:
        return None
    from raylaunch.config import launch_file

    try:
        keys = launch_file.load(Path(service.launch_file), environ=os.environ).api_keys
    except LaunchFileError:
        return None
    return next(iter(keys), None)


def find_ray(url: str | None, port: int | None) -> str | None:
    """The Ray cluster of the service under load, else the one that this machine is in, else None."""
    from raylaunch.cluster import ray_session
    from raylaunch.serve.service_record import list_services

    living = [one for one in list_services() if one.is_alive() and port in (None, one.port)]
    if not url and len(living) == 1 and living[0].ray_address:
        return living[0].ray_address
    return ray_session.find_address()


def check_target(target: Target) -> Target:
    """Ask the server what it serves; a target without a model takes its first.

    Raises:
        BenchError: no answer, the key is refused, or the model is not served.
    """
    try:
        listed, target = target.resolve_redirect("/v1/models")
        names = [str(entry["id"]) for entry in listed["data"]]
    except RequestError as error:
        if target.model and error.kind is HttpFailure.STATUS and error.status not in (401, 403):
            return target  # a server that lists no models may still serve the one that was named
        raise target.explain(error) from error
    except (KeyError, TypeError) as error:
        if target.model:
            return target
        what = f"{target.url} is no OpenAI-compatible server: /v1/models has no list of models"
        raise BenchError(what, fix="correct --url, or name the model with --model") from error
    if not target.model:
        if not names:
            raise BenchError(f"{target.url} serves no model", fix=_advise_start())
        return replace(target, model=names[0])
    if target.model not in names:
        raise BenchError(f"{target.url} serves no model {target.model}", fix=f"it serves: {', '.join(names)}")
    return target


def try_request(target: Target, path: str, body: bytes) -> dict[str, Any]:
    """Send one request before the load: what the server rejects is reported once, and not as 500 failures.

    Raises:
        BenchError: the server refuses it.
    """
    fields = json.loads(body) | {"stream": False, "max_tokens": 1}
    for name in ("stream_options", "ignore_eos", "min_tokens"):
        fields.pop(name, None)
    try:
        answer = target.ask(path, fields)
    except RequestError as error:
        if error.kind is not HttpFailure.STATUS or error.status in (401, 403) or error.is_passing:
            raise target.explain(error) from error
        fix = "try --api completions" if "chat template" in error.words.lower() else "change the request's options"
        if error.status == 404:
            fix = f"bench measures models that generate: {target.model} may be one that embeds, scores or classifies"
        raise BenchError(f"{target.url}{path} refuses the first request: {error.words}", fix=fix) from error
    return answer if isinstance(answer, dict) else {}
