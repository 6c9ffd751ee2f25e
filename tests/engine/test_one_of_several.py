"""What a request may change where several processes serve: every route of vLLM's app has to be decided on."""

from types import SimpleNamespace
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from raylaunch.engine import one_of_several
from raylaunch.engine.messages import SocketShare


def make_client(monkeypatch: pytest.MonkeyPatch, share: SocketShare, api_servers: int) -> TestClient:
    """Of an app that answers every path, in a process with this share of the socket."""
    monkeypatch.setattr(one_of_several, "_refused", {})
    one_of_several.refuse(share, api_servers)
    answer = Route("/{path:path}", lambda _: PlainTextResponse("answered"), methods=["GET", "POST"])
    app = Starlette(routes=[Mount("/api", routes=[answer]), answer])
    app.add_middleware(one_of_several.Refusal)
    return TestClient(app)


@pytest.mark.parametrize(
    ("share", "api_servers", "abort", "profile"),
    [(SocketShare(0, 1), 1, 200, 200), (SocketShare(0, 4), 4, 501, 200), (SocketShare(0, 4), 1, 200, 200),
     (SocketShare(0, 1, private_fd=9), 1, 501, 501)],
)  # fmt: skip
def test_refused_where_others_would_not_hear_of_it(
    monkeypatch: pytest.MonkeyPatch, share: SocketShare, api_servers: int, abort: int, profile: int
) -> None:
    """An abort by one of several processes, a profile of one of several replicas; the rest is answered."""
    client = make_client(monkeypatch, share, api_servers)
    for paths, status in ((one_of_several.ABORT_PATHS, abort), (one_of_several.PROFILE_PATHS, profile)):
        assert {client.post(path).status_code for path in (*paths, f"{paths[0]}/")} == {status}
    assert client.post("/v1/completions").text == "answered"


def test_the_refusal_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """In vLLM's format, with what to do."""
    error = make_client(monkeypatch, SocketShare(0, 4), 4).post("/inference/v1/abort_requests").json()["error"]
    assert error == {
        "message": "/inference/v1/abort_requests: several processes serve this port, and each knows its own requests "
        "only: close a request's connection to abort it, or serve with server.api_server_count: 1",
        "type": "NotImplementedError", "param": None, "code": 501,
    }  # fmt: skip


ROUTES = {
    "its own request, or reads what is the same in each": """
        POST /v1/chat/completions /v1/chat/completions/batch /v1/completions /v1/messages /v1/messages/count_tokens
        POST /v1/responses /v1/systemone /generative_scoring /invocations /inference/v1/generate
        POST /v1/embeddings /v2/embed /pooling /classify /score /v1/score /rerank /v1/rerank /v2/rerank
        POST /v1/audio/transcriptions /v1/audio/translations /tokenize /detokenize
        POST /v1/chat/completions/render /v1/completions/render /v1/messages/render /v1/responses/render
        POST /v1/chat/completions/derender /v1/completions/derender
        GET /v1/models /version /tokenizer_info /kv_event_sources /health /ping /metrics
        POST /ping
        GET /docs /docs/oauth2-redirect /redoc /openapi.json
        HEAD /docs /docs/oauth2-redirect /redoc /openapi.json
        * /v1/realtime /metrics
    """,
    "reads this process's own count: docs/serve.md says so": "GET /load",
    "the one engine, whichever process is asked; replicas refuse VLLM_SERVER_DEV_MODE": """
        POST /sleep /wake_up /release_kv_cache_memory /pause /resume /collective_rpc
        GET /is_sleeping /is_paused /weight_info /get_world_size /server_info
        POST /reset_prefix_cache /reset_encoder_cache /init_weight_transfer_engine /shutdown_weight_transfer_engine
        POST /start_weight_update /start_draft_weight_update /update_weights /finish_weight_update
        POST /update_weight_version /weight_checker
    """,
    "the engine's cache and this process's, which is no copy of it where vLLM knows of several": "POST /reset_mm_cache",
    "several refuse VLLM_ALLOW_RUNTIME_LORA_UPDATING": """
        POST /v1/load_lora_adapter /v1/unload_lora_adapter /adapters
        DELETE /adapters/{adapter_name}
    """,
    "several refuse VLLM_ENABLE_RESPONSES_API_STORE, without which nothing is found": """
        GET /v1/responses/{response_id}
        POST /v1/responses/{response_id}/cancel
    """,
    "vLLM refuses it: data parallelism is not placed, and fault tolerance wants one process": """
        POST /scale_elastic_ep /is_scaling_elastic_ep /fault_tolerance/apply
        GET /fault_tolerance/status
    """,
    "refused": " ".join(["POST", *one_of_several.ABORT_PATHS, *one_of_several.PROFILE_PATHS]),
}
"""Decision -> routes of vLLM 0.32: their method, then their paths."""


def read_routes(text: str) -> set[tuple[str, str]]:
    found, method = set(), ""
    for word in text.split():
        if word.startswith("/"):
            found.add((method, word))
        else:
            method = word
    return found


def list_routes(monkeypatch: pytest.MonkeyPatch) -> set[tuple[str, str]]:
    """Method and path of every route that vLLM's app can have."""
    for name in ("SERVER_DEV_MODE", "ALLOW_RUNTIME_LORA_UPDATING", "ENABLE_RESPONSES_API_STORE"):
        monkeypatch.setenv(f"VLLM_{name}", "1")
    from vllm.config import ProfilerConfig
    from vllm.entrypoints.launchers.app import build_app
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.tasks import POOLING_TASKS
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    args = make_arg_parser(FlexibleArgumentParser()).parse_args([])
    args.enable_fault_tolerance = args.tokens_only = args.enable_tokenizer_info_endpoint = True
    args.profiler_config = ProfilerConfig(profiler="torch", torch_profiler_dir="/nowhere")
    model: Any = SimpleNamespace(get_pooling_task=lambda _tasks: "embed")
    others: Any = ("generate", "render", "transcription", "realtime")
    app = build_app(args, (*others, *POOLING_TASKS), model)
    return {
        (method, str(getattr(route, "path", route)))
        for route in app.routes
        for method in getattr(route, "methods", None) or ("*",)
    }


@pytest.mark.engine  # it imports vLLM
def test_every_route_is_decided_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A vLLM with another route fails here: it is one process's own matter, reaches the engine, or is refused."""
    decided = set().union(*map(read_routes, ROUTES.values()))
    found = list_routes(monkeypatch)
    assert (found - decided, decided - found) == (set(), set())
