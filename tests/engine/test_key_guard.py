"""The API key on the paths of the app that vLLM leaves open."""

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from raylaunch.engine import key_guard

KEYS = ("sk-one", "sk-zwei-ü")


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> TestClient:
    """Of an app that answers every path."""
    monkeypatch.setattr(key_guard, "_keys", [])
    key_guard.require_keys(KEYS)
    answer = Route("/{path:path}", lambda _: PlainTextResponse("answered"), methods=["GET", "POST", "OPTIONS"])
    app = Starlette(routes=[Mount("/api", routes=[answer]), answer])
    app.add_middleware(key_guard.KeyGuard)
    return TestClient(app)


@pytest.mark.parametrize(
    "path", ["/invocations", "/invocations/", "/score", "/tokenize", "/v1/models", "/sleep", "/", "//health"]
)
def test_a_key_is_required(client: TestClient, path: str) -> None:
    """With vLLM's own answer; any of the keys is accepted, OPTIONS needs none."""
    for headers in ({}, {"Authorization": "sk-one"}, {"Authorization": "Bearer sk-on"}, {"Authorization": "Bearer "}):
        refused = client.post(path, headers=headers)
        assert (refused.status_code, refused.json()) == (401, {"error": "Unauthorized"})
    for key in KEYS:
        assert client.post(path, headers={"Authorization": f"bearer {key}".encode()}).text == "answered"
    assert client.options(path).text == "answered"


@pytest.mark.parametrize("path", [*sorted(key_guard.OPEN_PATHS), "/metrics/", "/static/swagger-ui.css"])
def test_open_paths(client: TestClient, path: str) -> None:
    """Health, metrics and docs need no key."""
    assert client.get(path).text == "answered"


def test_without_keys_all_is_open(client: TestClient) -> None:
    """A launch without a key has an open service."""
    key_guard.require_keys([])
    assert client.post("/invocations").text == "answered"
