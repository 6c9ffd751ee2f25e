"""What readiness reads and prints."""

from pathlib import Path

import pytest

from raylaunch.engine.metrics import EngineFigures, parse_metrics
from raylaunch.explain import log_lines
from raylaunch.serve import readiness
from raylaunch.serve.service_record import make_url


def test_engine_times_are_read_from_logs_of_both_kinds(tmp_path: Path) -> None:
    """vLLM's GPU and CPU runners log loading differently; the slowest rank counts."""
    log = tmp_path / "engine.log"
    log.write_text(
        "INFO [gpu_model_runner.py:1] Model loading took 3.42 GiB memory and 2.15 seconds\n"
        "INFO [gpu_model_runner.py:1] Model loading took 3.42 GiB memory and 2.75 seconds\n"
        "INFO [core.py:402] init engine (profile, create kv cache, warmup model) took 5.31 s\n"
    )
    assert log_lines.read_engine_times(log) == (2.75, 5.31)
    log.write_text("INFO [default_loader.py:501] Loading weights took 0.03 seconds\n")
    assert log_lines.read_engine_times(log) == (0.03, None)
    log.write_text("")
    assert log_lines.read_engine_times(log) == (None, None)


def test_curl_never_prints_the_key() -> None:
    """With a key the line names the variable that holds it."""
    line = readiness.make_curl("http://127.0.0.1:8080", "a/b", needs_key=True)
    assert '"Authorization: Bearer $RAYLAUNCH_SERVER__API_KEY"' in line
    assert "Authorization" not in readiness.make_curl("http://127.0.0.1:8080", "a/b", needs_key=False)


@pytest.mark.parametrize(
    ("host", "tls", "url"),
    [
        ("0.0.0.0", False, "http://127.0.0.1:8080"),
        ("::", False, "http://[::1]:8080"),
        ("10.0.0.1", True, "https://10.0.0.1:8080"),
        ("fe80::1", False, "http://[fe80::1]:8080"),
    ],
)
def test_urls_reach_the_server_from_here(host: str, tls: bool, url: str) -> None:
    """A server bound to every address is reached by loopback."""
    assert make_url(host, 8080, tls=tls) == url


def test_figures_are_summed_over_engines() -> None:
    """vLLM's Prometheus text, two engines."""
    text = (
        "# TYPE vllm:num_requests_running gauge\n"
        'vllm:num_requests_running{engine="0",model_name="m"} 3.0\n'
        'vllm:num_requests_running{engine="1",model_name="m"} 2.0\n'
        "# TYPE vllm:num_requests_waiting gauge\n"
        'vllm:num_requests_waiting{engine="0",model_name="m"} 7.0\n'
        "# TYPE vllm:kv_cache_usage_perc gauge\n"
        'vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.5\n'
        'vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.25\n'
    )
    assert parse_metrics(text) == EngineFigures(running=5, waiting=7, kv_cache_use=0.375)
