"""The serving child: vLLM's own OpenAI app around an engine built from AsyncEngineArgs.

The supervisor starts it before it knows the cluster: the imports, which take most of a short start-up, run while the
nodes are awaited and checked. Then the message ServeEngine gives what to serve (engine/messages.py has all messages).
"""

import asyncio
import dataclasses
import multiprocessing
import os
import signal
import socket
from argparse import Namespace
from collections.abc import Mapping
from multiprocessing import resource_tracker
from types import FrameType
from typing import TYPE_CHECKING, Any

from raylaunch.base.ipc import ParentLink
from raylaunch.config.companions import use_folders
from raylaunch.engine.load_table import LoadTable
from raylaunch.engine.messages import (
    ApiServers,
    EngineIntroduction,
    EngineReady,
    EngineStarting,
    Imported,
    ServeEngine,
)
from raylaunch.engine.vllm_places import CLI_ARGS, find_in_vllm

if TYPE_CHECKING:
    from raylaunch.engine.engine_args import PlacedEngineArgs
    from raylaunch.engine.engine_link import EngineLink


def _import_vllm_server() -> Namespace:
    """vLLM's server functions, wherever the installed version keeps them."""
    entry = ("vllm.entrypoints.launchers.api_server.entry", "vllm.entrypoints.openai.api_server")
    checks = (CLI_ARGS[0], "vllm.entrypoints.launchers.launcher", "vllm.entrypoints.openai.api_server")
    places = {
        "build_and_serve": entry,
        "build_async_engine_client_from_engine_args": entry,
        "validate_api_server_args": checks,
        "make_arg_parser": CLI_ARGS,
        "validate_parsed_serve_args": CLI_ARGS,
        "set_ulimit": ("vllm.utils.system_utils",),
        "FlexibleArgumentParser": ("vllm.utils.argparse_utils",),
    }
    return Namespace(**{name: find_in_vllm(name, modules) for name, modules in places.items()})


def die_during_start(_number: int, _frame: FrameType | None) -> None:
    """One SIGTERM ends a start-up: vLLM would lose it (0.32: zmq swallows the KeyboardInterrupt of its handler)."""
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(0)


def _import_parser_plugins(args: Any) -> None:
    """Import the user's own parsers, so that the launch can name them (vLLM does so where it binds the port)."""
    from vllm.reasoning import ReasoningParserManager
    from vllm.tool_parsers import ToolParserManager

    if args.tool_parser_plugin:
        ToolParserManager.import_tool_parser(args.tool_parser_plugin)
    if getattr(args, "reasoning_parser_plugin", ""):
        ReasoningParserManager.import_reasoning_parser(args.reasoning_parser_plugin)


def make_server_args(vllm_server: Namespace, engine_args: "PlacedEngineArgs", options: Mapping[str, Any]) -> Any:
    """vLLM's server reads an argparse namespace: its own defaults, then our engine's fields and options over them."""
    args = vllm_server.make_arg_parser(vllm_server.FlexibleArgumentParser()).parse_args([])
    for field in dataclasses.fields(engine_args):
        if hasattr(args, field.name):
            setattr(args, field.name, getattr(engine_args, field.name))
    for name, value in options.items():
        setattr(args, name, value)
    from raylaunch.engine import client_errors, key_guard, one_of_several

    ours = (client_errors.MIDDLEWARE, one_of_several.MIDDLEWARE, key_guard.MIDDLEWARE)
    args.middleware = [*args.middleware, *ours]
    key_guard.require_keys([key for key in args.api_key or () if key])
    if args.lora_modules:
        from vllm.entrypoints.openai.models.protocol import LoRAModulePath

        args.lora_modules = [LoRAModulePath(**module) for module in args.lora_modules]
    _import_parser_plugins(args)
    vllm_server.validate_parsed_serve_args(args)
    vllm_server.validate_api_server_args(args)
    return args


async def _describe_engine(client: Any) -> EngineReady:
    config = client.vllm_config
    cache = config.cache_config
    # vLLM's own count where it has one (0.30 and later): of several kinds of layers, blocks alone do not tell it.
    tokens = getattr(cache, "kv_cache_size_tokens", None) or (cache.num_gpu_blocks or 0) * cache.block_size
    tasks = tuple(await client.get_supported_tasks())
    return EngineReady(tokens, config.model_config.max_model_len, _find_task(tasks, config.model_config))


def _find_task(tasks: tuple[str, ...], model_config: Any) -> str:
    """The task that the model is served for; "" where it takes audio or a plugin's data alone."""
    if "generate" in tasks:
        return "generate"
    find = getattr(model_config, "get_pooling_task", lambda _: None)  # not in every supported vLLM
    known = ("embed", "classify", "score", "token_embed", "token_classify")
    return str(find(tasks) or next((task for task in known if task in tasks), ""))


async def serve(
    vllm_server: Namespace,
    order: ServeEngine,
    parent: ParentLink,
    engine_args: "PlacedEngineArgs",
    args: Any,
    link: "EngineLink | None" = None,
) -> None:
    """Start the engine, or be one of several clients of it, and serve until a message, a signal or its death ends it.

    Args:
        link: to an engine that another process starts.
    """
    from raylaunch.engine import engine_link
    from raylaunch.engine.control import EngineControl

    listening = socket.socket(fileno=order.share.socket_fd)
    shared: dict[str, Any] = {}
    if order.share.loads_fd is not None and engine_link.takes_peer_loads(vllm_server.build_and_serve):
        slot = order.share.first_slot + (link.index if link else 0)
        shared["peer_loads"] = (LoadTable.open(order.share.loads_fd).loads, slot)
    introduction: list[bytes] = []
    if link is None:
        parent.send(EngineStarting())
    elif link.introduction is None:
        introduction = engine_link.keep_introduction()
    else:
        engine_link.introduce_again(link.introduction)
    config = link.make_client_config() if link else None
    async with vllm_server.build_async_engine_client_from_engine_args(engine_args, client_config=config) as client:
        if link is not None and link.introduction is not None:
            await engine_link.release_requests(client, link)
        for payload in introduction:
            parent.send(EngineIntroduction(payload))
        parent.send(await _describe_engine(client))
        following = asyncio.create_task(EngineControl(client, parent, order.share).follow())
        address = f"http://{args.host or '0.0.0.0'}:{args.port}"
        shutdown = await vllm_server.build_and_serve(client, address, listening, args, **shared)
        following.cancel()
    await shutdown  # only after the engine's context is left


def run(vllm_server: Namespace, order: ServeEngine, parent: ParentLink) -> None:
    """Serve as ordered: with this process, or with several that it forks."""
    from raylaunch.engine import engine_args as engine
    from raylaunch.engine import engine_link, one_of_several
    from raylaunch.engine.api_group import ApiGroup

    launch = use_folders(order.launch)
    options = {name: value for name, value in launch.server.items() if name != "api_server_count"}
    if isinstance(options.get("api_key"), str):
        options["api_key"] = [options["api_key"]]
    engine_args = engine.build_engine_args(launch, reservation=order.reservation, worker_env_vars=order.env_vars)
    args = make_server_args(vllm_server, engine_args, options)
    vllm_server.set_ulimit()
    count, note = engine_link.count_servers(order.share, vllm_server.build_and_serve)
    one_of_several.refuse(order.share, count)
    if count > 1:
        ApiGroup(vllm_server, order, parent, engine_args, args).run()
        return
    parent.send(ApiServers((os.getpid(),), note))
    import uvloop

    uvloop.run(serve(vllm_server, order, parent, engine_args, args))


def main() -> None:
    """Import vLLM, wait for the order, serve it."""
    parent = ParentLink()
    signal.signal(signal.SIGTERM, die_during_start)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # One tracker for this process and the engine forked from it; vLLM kills an engine's own before it has unlinked the
    # engine's shared memory.
    resource_tracker.ensure_running()
    vllm_server = _import_vllm_server()
    import uvloop  # noqa: F401 (imported ahead)

    from raylaunch.engine import engine_args as engine

    parent.send(Imported())
    try:
        order = parent.wait_for(ServeEngine)
    except BrokenPipeError:  # the supervisor is gone
        return
    # The engine's process is a Ray driver of its own and reads the address from here.
    os.environ.update(order.env_vars)
    os.environ["RAY_ADDRESS"] = order.ray_address
    os.environ["VLLM_RAY_BUNDLE_INDICES"] = engine.find_rank_order(order.launch.world_size)
    run(vllm_server, order, parent)


if __name__ == "__main__":
    main()
