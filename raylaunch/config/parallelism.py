"""Whether a launch fits its machines and its model: the arithmetic of TP x PP, before any machine is touched."""

import json
from collections.abc import Iterator, Mapping

from pydantic import JsonValue

from raylaunch.config.launch import LaunchConfig

TP, PP = "engine.tensor_parallel_size", "engine.pipeline_parallel_size"
_NOT_PLACED = ("engine.data_parallel_size", "engine.prefill_context_parallel_size")
_MAX_CONFIG_BYTES = 8 << 20


def check_layout(config: LaunchConfig, bad: set[str]) -> list[str]:
    """Problems of GPUs, nodes and parallel sizes.

    Args:
        bad: fields with unusable values; what depends on them is not checked.
    """
    problems = []
    if config.cluster.nodes > 1 and config.model.path is None and not bad & {"cluster.nodes", "model.path", "model"}:
        problems.append(
            config.complain(
                "cluster.nodes",
                "more than one node needs model.path: the folder of the weights, the same on every node "
                "(example: path: /data/model)",
            )
        )
    for key in _NOT_PLACED:
        if key not in bad and config.engine.get(key.partition(".")[2], 1) != 1:
            problems.append(
                config.complain(key, "raylaunch places TP x PP only; serve each replica on GPUs of its own")
            )
    if not bad & {TP, PP, "engine", "cluster", "cluster.nodes", "cluster.gpus_per_node"}:
        found = [*_check_gpus(config)]
        problems += found or ([] if "cluster.replicas" in bad else _check_replicas(config))
    return problems


def _check_gpus(config: LaunchConfig) -> Iterator[str]:
    cluster = config.cluster
    tp, groups = config.tensor_parallel_size, config.pipeline_parallel_size
    needed, there = tp * groups, cluster.nodes * cluster.gpus_per_node
    machines = f"{cluster.nodes} node(s) x {cluster.gpus_per_node} GPU(s)"
    blamed = max((TP, PP), key=lambda key: _rank_blame(config, key))
    if tp > cluster.gpus_per_node and not cluster.tp_across_nodes:
        yield config.complain(
            TP,
            f"{tp} is more than the {cluster.gpus_per_node} GPU(s) of a node: every layer of the model would wait for "
            f"the network between nodes (a prompt of 8k tokens of a 70B model: 18 s over 10 GbE, against 0.2 s for a "
            f"pipeline). Use at most {cluster.gpus_per_node} and let pipeline_parallel_size span nodes, "
            "or set cluster.tp_across_nodes: true",
        )
    if needed > there:
        yield config.complain(
            blamed, f"TP={tp} x PP={groups} needs {needed} GPUs, but cluster has {machines} = {there}"
        )
    elif tp <= cluster.gpus_per_node and (fits := cluster.nodes * (cluster.gpus_per_node // tp)) < groups:
        yield config.complain(
            TP,
            f"only {fits} groups of {tp} GPUs fit into {machines}, each inside a node, but {groups} are needed "
            f"({cluster.gpus_per_node % tp} GPU(s) of each node would stay unused)",
        )


def describe_unused(config: LaunchConfig, *, nodes: int = 0, gpus_per_node: int = 0) -> str:
    """That a launch uses fewer GPUs than there are, with the layout that would use all; "" where it uses all.

    Args:
        nodes, gpus_per_node: of the cluster; 0: as the launch names them.
    """
    cluster = config.cluster
    nodes, gpus_per_node = nodes or cluster.nodes, gpus_per_node or cluster.gpus_per_node
    there = nodes * gpus_per_node
    if config.world_size >= there or config.replicas > 1:
        return ""
    layout = _find_full_layout(config, nodes, gpus_per_node)
    advice = f"; to use all: {layout}" if layout else ""
    return (
        f"this launch uses {config.world_size} of {there} GPUs (TP={config.tensor_parallel_size} x "
        f"PP={config.pipeline_parallel_size} on {nodes} node(s) x {gpus_per_node}){advice}"
    )


def _find_full_layout(config: LaunchConfig, nodes: int, gpus_per_node: int) -> str:
    """Options for TP x PP over all GPUs: with the launch's own TP where it divides a node, else the largest."""
    own = config.tensor_parallel_size
    fitting = [size for size in range(gpus_per_node, 0, -1) if gpus_per_node % size == 0]
    for tp in [size for size in fitting if size == own > 1] + fitting:
        pp = nodes * gpus_per_node // tp
        sizes = {"tensor_parallel_size": tp, "pipeline_parallel_size": pp}
        if not check_local_shape(config.with_engine(sizes)):
            block = {"cluster.nodes": nodes, "cluster.gpus_per_node": gpus_per_node}
            named = (config.cluster.nodes, config.cluster.gpus_per_node)
            options = ({} if named == (nodes, gpus_per_node) else block) | {TP: tp, PP: pp}
            return " ".join(f"--set {key}={value}" for key, value in options.items())
    return ""


def _check_replicas(config: LaunchConfig) -> Iterator[str]:
    cluster, fits = config.cluster, config.fitting_replicas
    if config.replicas > fits:
        where = (
            f"share a node of {cluster.gpus_per_node} GPU(s)" if config.replicas_per_node > 1 else "take a node each"
        )
        if config.nodes_per_replica > 1:
            where = f"take {config.nodes_per_replica} complete nodes each"
        yield config.complain(
            "cluster.replicas",
            f"{config.replicas} replicas of {config.world_size} GPU(s) do not fit into {cluster.nodes} node(s) x "
            f"{cluster.gpus_per_node} GPU(s): they {where}, so at most {fits} fit",
        )


def _rank_blame(config: LaunchConfig, key: str) -> tuple[int, int]:
    """How likely a size is the one to change: set by the highest layer, then largest."""
    source = config.sources.get(key)
    order = ("default", "file", "variable", "flag", "derived")
    return order.index(source.kind if source else "default"), config.engine.get(key.partition(".")[2], 1)


def check_model_shape(config: LaunchConfig, config_json: Mapping[str, JsonValue]) -> list[str]:
    """Whether TP and PP can split a model, by its config.json (of a multimodal model its text_config).

    Figures that are missing or no positive integers are not checked.

    Returns:
        The problems, as sentences with their place.
    """
    text = config_json.get("text_config")
    shape = text if isinstance(text, Mapping) else config_json
    tp, pp = config.tensor_parallel_size, config.pipeline_parallel_size
    heads, kv_heads = _read_size(shape, "num_attention_heads"), _read_size(shape, "num_key_value_heads")
    layers = _read_size(shape, "num_hidden_layers")
    problems = []
    fitting = [
        size
        for size in range(1, config.cluster.gpus_per_node + 1)
        if (not heads or heads % size == 0) and (not kv_heads or kv_heads % size == 0 or size % kv_heads == 0)
    ]
    which = f" ({', '.join(map(str, fitting))} can)"
    if heads and heads % tp:
        problems.append(config.complain(TP, f"{tp} cannot split the model's {heads} attention heads{which}"))
    if kv_heads and kv_heads % tp and tp % kv_heads:
        problems.append(config.complain(TP, f"{tp} cannot split the model's {kv_heads} KV heads{which}"))
    if layers and layers < pp:
        problems.append(config.complain(PP, f"{pp} stages are more than the model's {layers} layers"))
    return problems


def _read_size(shape: Mapping[str, JsonValue], name: str) -> int | None:
    value = shape.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def check_local_shape(config: LaunchConfig) -> list[str]:
    """check_model_shape with the config.json in the model's folder; no problems where it is not on this machine."""
    file = config.model_folder / "config.json"
    try:
        with file.open("rb") as stream:
            content = stream.read(_MAX_CONFIG_BYTES)
    except OSError:
        return []
    try:
        shape = json.loads(content)
    except (ValueError, RecursionError):
        shape = None
    if not isinstance(shape, dict):
        return [config.complain("model.path", f"{file} is not a JSON object, so this is not a model folder")]
    return check_model_shape(config, shape)
