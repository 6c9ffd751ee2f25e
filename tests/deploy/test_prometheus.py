"""Rules, scrape configuration and dashboard in a real Prometheus, fed with a server's recorded metrics."""

import re
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from raylaunch.base.service_metrics import ServiceMetrics

from . import prometheus
from .prometheus import Prometheus

DATA = Path(__file__).parent / "data"
VLLM = (DATA / "vllm.metrics").read_text()
HEALTHY = ServiceMetrics(
    state="ready", restarts=2, incidents={"died": 2}, last_incident_at=1_795_500_000.0, ready_at=1_795_500_060.0,
    gpus_expected=16, gpus_present=16, progress_age_s=0.2,
)  # fmt: skip
HOT = (("10.0.0.2", 3, "hw_thermal_slowdown"),)


class Recorded(ThreadingHTTPServer):
    """Serves recorded metrics; counters grow a little with each scrape, as those of a busy server."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.metrics = replace(HEALTHY, throttled=HOT)
        self.scrapes = 0

    def make_text(self) -> str:
        self.scrapes += 1
        grown = 1 + self.scrapes / 100

        def grow(line: "re.Match[str]") -> str:
            return f"{line[1]}{float(line[2]) * grown}"

        vllm = re.sub(r"^(vllm:\w+_(?:total|bucket|count|sum)\{.*\} )(\S+)$", grow, VLLM, flags=re.MULTILINE)
        return vllm + self.metrics.to_text()


class Answer(BaseHTTPRequestHandler):
    server: Recorded

    def do_GET(self) -> None:
        body = self.server.make_text().encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Silent."""


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    server = Recorded()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def watching(tmp_path: Path, recorded: Recorded) -> Iterator[Prometheus]:
    with prometheus.running(tmp_path, f"127.0.0.1:{recorded.server_port}") as server:
        yield server


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "config", str(prometheus.CONFIG)),
        ("check", "rules", str(prometheus.RULES)),
        ("test", "rules", str(DATA / "rules.test.yml")),
    ],
    ids=["config", "rules", "unit tests of the rules"],
)
@pytest.mark.slow
def test_promtool_is_content(arguments: tuple[str, ...]) -> None:
    """Prometheus' own tool reads what is shipped, and each rule fires when it should."""
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_name_exists() -> None:
    """Dashboard and rules name what vLLM's server, our supervisor or Ray's agent really export."""
    from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES

    named = prometheus.find_names("\n".join([*prometheus.list_queries(), prometheus.RULES.read_text()]))
    ours = replace(HEALTHY, throttled=HOT).to_text()
    known = prometheus.find_names(VLLM + ours) | {f"ray_{name}" for name in METRICS_GAUGES}
    assert len(named) > 25
    assert named - known == set()


def test_dashboard_has_what_grafana_needs() -> None:
    """Panels do not overlap and have distinct ids; all ask the data source that the reader chooses."""
    import json

    panels = json.loads(prometheus.DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
        assert panel["type"] == "row" or panel["datasource"]["uid"] == "${datasource}"


@pytest.mark.slow
def test_every_query_of_the_dashboard_has_an_answer(watching: Prometheus, recorded: Recorded) -> None:
    """Ray's are only understood here, as no Ray is scraped; all others have values."""
    watching.wait_for(lambda: recorded.scrapes > 3, "Prometheus does not scrape")
    for query in prometheus.list_queries():
        if "ray_node" in query:
            assert watching.query(query) == []
            continue
        watching.wait_for(lambda query=query: watching.query(query) != [], query)  # type: ignore[misc]
        values = [sample["value"][1] for sample in watching.query(query)]
        assert "NaN" not in values, query


@pytest.mark.slow
def test_alerts_fire(watching: Prometheus, recorded: Recorded) -> None:
    """A healthy service raises none; a restart fires at once; what waits for minutes is pending meanwhile."""
    watching.wait_for(lambda: watching.query("raylaunch_up") != [], "nothing scraped")
    recorded.metrics = HEALTHY
    watching.wait_for(lambda: not watching.query("raylaunch_gpu_throttled == 1"), "still throttled")
    assert watching.list_alerts("firing") == set()
    recorded.metrics = replace(HEALTHY, state="restarting", gpus_present=8, progress_age_s=75.0, throttled=HOT)
    expected = {"RaylaunchRestarting", "RaylaunchStalled"}
    watching.wait_for(lambda: watching.list_alerts("firing") == expected, "restarting, stalled")
    waiting = {"RaylaunchNotBack", "RaylaunchGpusMissing", "RaylaunchGpuThrottled"}
    watching.wait_for(lambda: watching.list_alerts("pending") == waiting, "not back, GPUs missing, throttled")


@pytest.mark.slow
def test_a_dark_port_is_seen(tmp_path: Path) -> None:
    """No receiver listens: the alert waits for its minute."""
    with prometheus.running(tmp_path, "127.0.0.1:9") as watching:
        watching.wait_for(lambda: watching.list_alerts("pending") == {"RaylaunchDown"}, "down")
