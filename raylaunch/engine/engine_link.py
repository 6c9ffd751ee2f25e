"""How an API server process that is one of several talks to the one EngineCore (vLLM 0.32).

vLLM's own multi-process client does it, but it cannot connect to an engine that has started: EngineCore introduces
itself once. A process that replaces a dead one gets what EngineCore sent then, and waits until its socket has
connected again.
"""

import inspect
import time
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import zmq

from raylaunch.engine.messages import SocketShare

_RECONNECT_S = 30.0
_POLL_MS = 50
_RELEASE = "release_client"


@dataclass(frozen=True)
class EngineLink:
    """One client's end of an engine that several share."""

    count: int
    """Clients of the engine."""
    index: int
    inputs: Any
    """vLLM's ZmqListener of the requests."""
    outputs: Any
    tensor_queue: Any = None
    admission: Any = None
    """vLLM's shared counters of max_num_queued_reqs, or None."""
    introduction: bytes | None = None
    """What the engine sent when it started; None for its first clients, which hear it themselves."""

    def make_client_config(self) -> dict[str, Any]:
        """The client_config of vLLM's build_async_engine_client_from_engine_args."""
        optional = {"tensor_queue": self.tensor_queue, "mp_admission_counters": self.admission}
        return {
            "input_address": self.inputs.address,
            "output_address": self.outputs.address,
            "input_listener": self.inputs.socket,
            "output_listener": self.outputs.socket,
            "client_count": self.count,
            "client_index": self.index,
        } | {key: value for key, value in optional.items() if value is not None}


def count_servers(share: SocketShare, build_and_serve: Any) -> tuple[int, str]:
    """How many API servers this vLLM can serve an engine with, and what it cannot do of what is ordered; "" for all."""
    from vllm.v1.engine import utils

    if takes_peer_loads(build_and_serve) and hasattr(utils, "bind_engine_zmq_listeners"):
        return share.api_servers, ""
    if share.api_servers > 1:
        return 1, f"this vLLM cannot serve one socket with {share.api_servers} API servers: one serves"
    if share.private_fd is not None and not takes_peer_loads(build_and_serve):
        return 1, "this vLLM does not leave connections to the least loaded replica: they may be shared unevenly"
    return 1, ""


def takes_peer_loads(build_and_serve: Any) -> bool:
    """Whether this vLLM leaves a connection to the least loaded process on the socket."""
    return "peer_loads" in inspect.signature(build_and_serve).parameters


def let_clients_be_released() -> None:
    """Give EngineCore, which is forked from this process, a way to end the requests of a client that died."""
    from vllm.v1.engine.core import EngineCoreProc

    def release_client(engine: Any, client_index: int) -> int:
        found = [
            request.request_id for request in engine.scheduler.requests.values() if request.client_index == client_index
        ]
        engine.abort_requests(found)
        return len(found)

    setattr(EngineCoreProc, _RELEASE, release_client)


async def release_requests(client: Any, link: EngineLink) -> int:
    """Have the engine end the requests of the process that this one replaces; returns their number."""
    return int(await client.engine_core.call_utility_async(_RELEASE, link.index))


def keep_introduction() -> list[bytes]:
    """A list that gets what the engine says to the client that is made next."""
    from vllm.v1.engine.core_client import MPClient

    kept: list[bytes] = []
    apply = MPClient._apply_ready_response

    def keep_and_apply(client: Any, payload: bytes) -> None:
        kept.append(payload)
        apply(client, payload)

    MPClient._apply_ready_response = keep_and_apply
    return kept


def introduce_again(introduction: bytes) -> None:
    """Have the client that is made next in this process hear `introduction` once the engine has connected to it."""
    from vllm.v1.engine import EngineCoreRequestType, core_client
    from vllm.v1.serial_utils import MsgpackEncoder

    nothing = (EngineCoreRequestType.ABORT.value, *MsgpackEncoder().encode([]))
    identity = (0).to_bytes(2, "little")

    class KnownEngine:
        """What MPClient.__init__ uses of its input socket to wait for the engine."""

        def __init__(self, real: zmq.Socket[bytes]) -> None:
            self._real = real

        def poll(self, timeout: int) -> int:
            self._real.setsockopt(zmq.ROUTER_MANDATORY, 1)
            until = time.monotonic() + min(timeout / 1000, _RECONNECT_S)
            while time.monotonic() < until:
                try:
                    self._real.send_multipart((identity, *nothing))
                except zmq.ZMQError as error:
                    if error.errno != zmq.EHOSTUNREACH:
                        raise
                    self._real.poll(_POLL_MS)
                else:
                    self._real.setsockopt(zmq.ROUTER_MANDATORY, 0)
                    return 1
            return 0

        def recv_multipart(self) -> tuple[bytes, bytes]:
            return identity, introduction

    class Sockets(zmq.Socket[bytes]):
        @classmethod
        def shadow(cls, address: Any) -> Any:
            return KnownEngine(zmq.Socket.shadow(address))

    core_client.zmq = SimpleNamespace(**{**vars(zmq), "Socket": Sockets})
