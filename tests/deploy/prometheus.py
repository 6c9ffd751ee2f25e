"""A real Prometheus of a test's own, and what the dashboard and the rules ask it."""

import contextlib
import json
import re
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from raylaunch.base.ports import find_free_ports
from raylaunch.base.processes import wait_until

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES, CONFIG, DASHBOARD = (
    DEPLOY / name for name in ("raylaunch.rules.yml", "prometheus.yml", "grafana-dashboard.json")
)
DEADLINE_S = 60.0
_NAMES = re.compile(r"\b(?:vllm:|raylaunch_|ray_)\w+")


def list_queries() -> list[str]:
    """Every query of the dashboard."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", [])]


def find_names(text: str) -> set[str]:
    """The metrics that queries name, without the parts of a histogram."""
    return set(_NAMES.findall(text))


@dataclass
class Prometheus:
    """A running server."""

    url: str

    def ask(self, path: str, **parameters: str) -> Any:
        with urllib.request.urlopen(
            f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}", timeout=10
        ) as got:
            return json.load(got)["data"]

    def query(self, expression: str) -> list[Any]:
        """The result of a dashboard's query, its variables filled in as Grafana does."""
        filled = expression.replace("$__rate_interval", "20s").replace("$instance", ".*")
        result: list[Any] = self.ask("query", query=filled)["result"]
        return result

    def list_alerts(self, state: str) -> set[str]:
        """Names of alerts in that state: "pending" or "firing"."""
        return {alert["labels"]["alertname"] for alert in self.ask("alerts")["alerts"] if alert["state"] == state}

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        assert wait_until(condition, DEADLINE_S), what


@contextlib.contextmanager
def running(folder: Path, target: str) -> Iterator[Prometheus]:
    """Start Prometheus with the shipped configuration and rules; only the target and the pace are the test's."""
    config = yaml.safe_load(CONFIG.read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["scrape_configs"] = [job for job in config["scrape_configs"] if job["job_name"] == "raylaunch"]
    config["scrape_configs"][0]["static_configs"] = [{"targets": [target]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    (folder / RULES.name).write_text(RULES.read_text())
    [port] = find_free_ports(1)
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/tsdb",
             f"--web.listen-address=127.0.0.1:{port}"],
            stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
    server = Prometheus(f"http://127.0.0.1:{port}")
    try:
        deadline = time.monotonic() + DEADLINE_S
        while not _is_ready(server):
            assert process.poll() is None, (folder / "prometheus.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield server
    finally:
        process.terminate()
        process.wait(DEADLINE_S)


def _is_ready(server: Prometheus) -> bool:
    try:
        with urllib.request.urlopen(f"{server.url}/-/ready", timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False
