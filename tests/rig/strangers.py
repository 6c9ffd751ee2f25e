"""What a stranger on the network tries at a cluster's ports: `python strangers.py HEAD`, without the token.

Prints one JSON object: service -> "refused", or what it got. They are reached by Ray's own protocols: gRPC calls
that any node or driver makes first, HTTP requests of the dashboard, and `ray start` with a wrong token.
"""

import json
import os
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request

import grpc

from raylaunch.config import cluster_ports as ports

GRPC_SERVICES = {
    "GCS": (ports.GCS, "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo"),
    "GCS jobs": (ports.GCS, "/ray.rpc.JobInfoGcsService/GetAllJobInfo"),
    "GCS key-value": (ports.GCS, "/ray.rpc.InternalKVGcsService/InternalKVKeys"),
    "Ray client": (ports.RAY_CLIENT, "/ray.rpc.RayletDriver/ClusterInfo"),
    "object manager": (ports.OBJECT_MANAGER, "/ray.rpc.ObjectManagerService/Pull"),
    "dashboard agent": (ports.DASHBOARD_AGENT_GRPC, "/ray.rpc.ReporterService/GetTraceback"),
    "logs": (ports.DASHBOARD_AGENT_GRPC, "/ray.rpc.LogService/ListLogs"),
    "node manager": (ports.NODE_MANAGER, "/ray.rpc.NodeManagerService/GetNodeStats"),
}
HTTP_SERVICES = {
    "dashboard": (ports.DASHBOARD, "/api/version"),
    "jobs API": (ports.DASHBOARD, "/api/jobs/"),
    "jobs agent": (ports.DASHBOARD_AGENT_HTTP, "/api/job_agent/jobs/"),
    "logs agent": (ports.DASHBOARD_AGENT_HTTP, "/logs/"),
    "runtime environment agent": (ports.RUNTIME_ENV_AGENT, "/"),
}


def call(head: str, port: int, method: str) -> str:
    """Call a gRPC method with an empty request."""
    with grpc.insecure_channel(f"{head}:{port}") as channel:
        try:
            channel.unary_unary(method)(b"", timeout=10)
        except grpc.RpcError as error:
            code = error.code()
            return "refused" if code is grpc.StatusCode.UNAUTHENTICATED else f"{code.name}: {error.details()}"
    return "open"


def fetch(head: str, port: int, path: str) -> str:
    """Fetch an address as a browser would."""
    try:
        with urllib.request.urlopen(f"http://{head}:{port}{path}", timeout=10) as response:
            return f"open: {response.status}"
    except urllib.error.HTTPError as error:
        return "refused" if error.code in (401, 403) else f"HTTP {error.code}"
    except urllib.error.URLError as error:
        return "refused" if isinstance(error.reason, ConnectionRefusedError) else str(error.reason)


def join(head: str, token: str) -> str:
    """Join the cluster as a node."""
    environ = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "RAY_USAGE_STATS_ENABLED": "0"}
    with tempfile.TemporaryDirectory(prefix="s-") as folder:
        command = [
            sys.executable,
            "-m",
            "ray.scripts.scripts",
            "start",
            f"--address={head}:{ports.GCS}",
            "--num-gpus=1",
        ]
        try:
            done = subprocess.run(
                command, env=environ | {"RAY_TMPDIR": folder}, capture_output=True, text=True, timeout=90, check=False
            )
        except subprocess.TimeoutExpired:
            return "no answer within 90 s"
    printed = done.stdout + done.stderr
    return (
        "refused" if done.returncode != 0 and "uthenticat" in printed else f"status {done.returncode}: {printed[-300:]}"
    )


def main(head: str) -> None:
    answers = {name: call(head, *place) for name, place in GRPC_SERVICES.items()}
    answers |= {name: fetch(head, *place) for name, place in HTTP_SERVICES.items()}
    answers["join with a wrong token"] = join(head, "0" * 64)
    print(json.dumps(answers))


if __name__ == "__main__":
    main(sys.argv[1])
