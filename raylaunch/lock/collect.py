"""What a launch would be served with now: from the facts of its nodes."""

import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence

from raylaunch.base import text
from raylaunch.cluster import ray_session
from raylaunch.config.launch import LaunchConfig
from raylaunch.config.layers import IMAGE_VARIABLE
from raylaunch.lock.lock_file import Lock, LockedNode
from raylaunch.node.facts import FactsRequest, NodeFacts, collect_facts
from raylaunch.preflight.requirements import make_request
from raylaunch.preflight.run import check_nodes

_PREFIXES = ("NCCL_", "GLOO_", "VLLM_", "CUDA_", "TORCH_", "PYTORCH_")
_OF_ONE_NODE = ("VLLM_HOST_IP", "CUDA_VISIBLE_DEVICES", "VLLM_RPC_BASE_PATH")
"""They differ from node to node, or from start to start."""


def make_lock(launch: LaunchConfig, facts: Sequence[NodeFacts], environ: Mapping[str, str] = os.environ) -> Lock:
    """The lock of a launch on nodes with these facts, the head first."""
    head = facts[0]
    model = {"folder": str(launch.model_folder), "commit": head.model.commit or "", "files_sha256": _hash_files(head)}
    versions = {
        name: head.packages[name] for name in ("raylaunch", "vllm", "ray", "torch", "nccl") if name in head.packages
    }
    variables = {
        name: value
        for name, value in sorted(environ.items())
        if name.startswith(_PREFIXES) and not name.startswith(_OF_ONE_NODE)
    }
    return Lock(
        made_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        versions={**versions, "python": head.python},
        nodes={node.hostname: _describe_node(node) for node in facts},
        model=model,
        launch=launch.dump(mask=True),
        environment=text.mask(variables),
        image=environ.get(IMAGE_VARIABLE, ""),
    )


def _describe_node(node: NodeFacts) -> LockedNode:
    if node.driver is None or node.driver.error:
        return LockedNode()
    return LockedNode(node.driver.driver_version, tuple(gpu.name for gpu in node.driver.gpus))


def _hash_files(node: NodeFacts) -> str:
    if not node.model.files:
        return ""
    files = [[file.name, file.size, file.sha256] for file in node.model.files]
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()


def collect_lock(launch: LaunchConfig) -> Lock:
    """The lock of a launch here: over the nodes of the Ray cluster that runs, else of this machine alone.

    Raises:
        ClusterError: Ray cannot be joined.
    """
    address = ray_session.find_address()
    if address is None:
        request = FactsRequest("127.0.0.1", str(launch.model_folder), ask_gpus=not launch.cluster.local)
        return make_lock(launch, [collect_facts(request)])
    ray_session.join(address, env_vars={})
    try:
        nodes = [node for node in ray_session.list_nodes() if node.gpus >= launch.cluster.gpus_per_node]
        chosen = nodes[: launch.cluster.nodes] or ray_session.list_nodes()[:1]
        facts, _ = check_nodes(chosen, make_request(launch, logical_gpus=launch.cluster.local))
    finally:
        ray_session.leave()
    return make_lock(launch, facts)
