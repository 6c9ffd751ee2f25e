"""What readiness reads and prints."""

import json
import socket
import subprocess
from pathlib import Path

import pytest

from raylaunch.base.http_client import fetch_text
from raylaunch.base.viewpoint import HERE, Viewpoint
from raylaunch.config.launch_file import load
from raylaunch.engine.metrics import EngineFigures, parse_metrics
from raylaunch.explain import log_lines
from raylaunch.serve import readiness
from raylaunch.serve.announcement import list_next_steps
from raylaunch.serve.listener import Listener, Notice, make_tls
from raylaunch.serve.service_record import make_url
from tests.config import launches


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
    """With a key the line names the variable, or the reader's file, that holds it."""
    launch = load(None, sets=("server.api_key=secret",), environ={})
    (_, curl, _) = list_next_steps(launch, "http://127.0.0.1:8080", HERE)
    assert '"Authorization: Bearer $RAYLAUNCH_SERVER__API_KEY"' in curl
    view = Viewpoint("cluster.yaml", "10.0.0.1", key_file="/home/mia doe/key")
    (_, _, curl, _) = list_next_steps(launch, "http://10.0.0.1:8080", view)
    assert "\"Authorization: Bearer $(cat '/home/mia doe/key')\"" in curl
    assert "Authorization" not in readiness.make_curl("http://127.0.0.1:8080", "a/b", key="")


def test_next_steps_are_typed_where_the_reader_is() -> None:
    """From a laptop: ask and stop with --cluster, and Ctrl-C leaves the service running; here Ctrl-C ends it."""
    launch = load(None, environ={})
    assert list_next_steps(launch, "http://127.0.0.1:8080", HERE)[-1] == "Ctrl-C or `raylaunch stop` ends it"
    lines = list_next_steps(launch, "http://10.0.0.1:8080", Viewpoint("my file.yaml", "10.0.0.1"))
    assert "  raylaunch ask 'Who are you?' --port=8080 --cluster 'my file.yaml'" in lines
    assert lines[-1] == "Ctrl-C leaves it running; `raylaunch stop --port=8080 --cluster 'my file.yaml'` ends it"


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


def make_certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A self-signed certificate and its key."""
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, "-days", "1",
         "-subj", f"/CN={name}"], check=True, capture_output=True,
    )  # fmt: skip
    return certificate, key


def test_mtls_is_tried_before_a_model_is_loaded(tmp_path: Path) -> None:
    """Without a client's certificate refused by the launch file, with another one by the service's own TLS."""
    (certificate, key), (wrong, wrong_key) = make_certificate(tmp_path, "right"), make_certificate(tmp_path, "wrong")
    files = f"ssl_certfile: {certificate}, ssl_keyfile: {key}, ssl_ca_certs: {certificate}"
    server = f"server: {{{files}, ssl_cert_reqs: 2}}\n"
    path = launches.write(tmp_path, launches.BASE + server)
    (problem,) = launches.problems_of(path)
    assert "server.ssl_cert_reqs: 2 requires a certificate of every client" in problem
    assert "keep.client_certfile" in problem
    right = launches.load(path, f"keep.client_certfile={certificate}", f"keep.client_keyfile={key}")
    bad = launches.load(path, f"keep.client_certfile={wrong}", f"keep.client_keyfile={wrong_key}")
    notice = Notice("starting", "starting", 1, "vllm_up 1\n")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        listener = Listener(listening, lambda: notice, tls=make_tls(right.server))
        listener.resume()
        url = f"https://127.0.0.1:{listening.getsockname()[1]}"
        try:
            readiness.check_own_request(url, right)
            with pytest.raises(readiness.UnaskedError, match="raylaunch cannot ask its own service"):
                readiness.check_own_request(url, bad)
            assert fetch_text(f"{url}/metrics", 10.0, right.client_cert) == "vllm_up 1\n"
            assert fetch_text(f"{url}/metrics", 10.0) is None
        finally:
            listener.close()


@pytest.mark.parametrize("key", ["密钥-123", "a\nb", "tab\there", "café", " "])
def test_a_key_that_no_header_carries_is_refused(tmp_path: Path, key: str) -> None:
    """In the file, by a flag and by vLLM's own variable; the key is not repeated."""
    for problems in (
        launches.problems_of(launches.write(tmp_path, launches.BASE + f"server: {{api_key: {json.dumps(key)}}}\n")),
        launches.problems_of(None, f"server.api_key={json.dumps(key)}"),
        launches.problems_of(None, VLLM_API_KEY=key),
    ):
        assert "an HTTP header carries printable ASCII alone" in problems[0]
        assert key.strip() == "" or key not in problems[0]


def test_the_key_of_vllms_own_variable_counts_last(tmp_path: Path) -> None:
    assert launches.load(None, VLLM_API_KEY="sk-env").api_keys == ("sk-env",)
    assert launches.load(None, "server.api_key=sk-flag", VLLM_API_KEY="sk-env").api_keys == ("sk-flag",)
