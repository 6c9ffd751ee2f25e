"""The TCP ports of a cluster, all fixed: for `ray start` in the cluster file, for firewalls and for `raylaunch doctor`.

::

    where        port           what                                        ray start ...
    head         6379           GCS: nodes and drivers join here            --port
    head         10001          Ray client                                  --ray-client-server-port
    head         8265           dashboard and jobs; on loopback alone       --dashboard-port
    every node   8076           object manager                              --object-manager-port
    every node   8077           node manager (raylet)                       --node-manager-port
    every node   8078           dashboard agent, gRPC                       --dashboard-agent-grpc-port
    every node   8079           dashboard agent, HTTP                       --dashboard-agent-listen-port
    every node   8081           runtime environment agent                   --runtime-env-agent-port
    every node   8082           metrics for Prometheus                      --metrics-export-port
    every node   10002-10201    worker processes, drivers included          --min-worker-port, --max-worker-port
    every node   any            NCCL, Gloo and vLLM's own sockets: the kernel chooses (net.ipv4.ip_local_port_range)

Because of the last line, a firewall between the nodes has to allow everything, not a list of ports. Ray's ports leave
out 8080, the default of vLLM's API.
"""

from types import MappingProxyType

GCS = 6379
RAY_CLIENT = 10001
DASHBOARD = 8265
"""On loopback of the head: `raylaunch dashboard` forwards a port to it."""
OBJECT_MANAGER = 8076
NODE_MANAGER = 8077
DASHBOARD_AGENT_GRPC = 8078
DASHBOARD_AGENT_HTTP = 8079
RUNTIME_ENV_AGENT = 8081
METRICS_EXPORT = 8082
MIN_WORKER, MAX_WORKER = 10002, 10201
"""First and last port of worker processes: 200, for eight engine workers and what Ray itself starts on a node."""

NODE_OPTIONS = MappingProxyType(
    {
        "object-manager-port": OBJECT_MANAGER,
        "node-manager-port": NODE_MANAGER,
        "dashboard-agent-grpc-port": DASHBOARD_AGENT_GRPC,
        "dashboard-agent-listen-port": DASHBOARD_AGENT_HTTP,
        "runtime-env-agent-port": RUNTIME_ENV_AGENT,
        "metrics-export-port": METRICS_EXPORT,
    }
)
"""Options of `ray start` for the listeners of every node's raylet and agents."""
EVERY_NODE = (*NODE_OPTIONS.values(),)
HEAD = (GCS, RAY_CLIENT)
"""Listeners of the head besides, for the other nodes and drivers."""
NAMES = {
    GCS: "GCS",
    RAY_CLIENT: "Ray client",
    DASHBOARD: "dashboard",
    OBJECT_MANAGER: "object manager",
    NODE_MANAGER: "node manager",
    DASHBOARD_AGENT_GRPC: "dashboard agent",
    DASHBOARD_AGENT_HTTP: "dashboard agent",
    RUNTIME_ENV_AGENT: "runtime environment agent",
    METRICS_EXPORT: "metrics",
}


def describe(port: int) -> str:
    """A port with its purpose: "6379 (GCS)"."""
    name = NAMES.get(port) or ("workers" if MIN_WORKER <= port <= MAX_WORKER else "NCCL, Gloo")
    return f"{port} ({name})"
