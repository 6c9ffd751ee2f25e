"""Names and values that other servers, browsers and requests have: what to write in a launch file instead."""

from pathlib import Path

import pytest

from raylaunch.config.other_names import EXPLAINED, MEANT
from raylaunch.config.schema import read_shipped
from tests.config.launches import BASE, load, problems_of, write


@pytest.mark.parametrize(
    ("block", "line", "part"),
    [
        ("server", "cors_origins: ['*']", "nearest is allowed_origins"),
        ("server", "ssl_key: /k", "nearest is ssl_keyfile"),
        ("server", "bind: 0.0.0.0", "nearest is host"),
        ("server", "uvicorn_access_log: false", "disable_uvicorn_access_log: true turns it off"),
        ("server", "https: true", "TLS is on where"),
        ("engine", "cors_origins: ['*']", "belongs to the server block (server.allowed_origins)"),
        ("engine", "uvicorn_access_log: false", "server.disable_uvicorn_access_log: true"),
        ("engine", "guided_decoding_config: {}", "nearest is structured_outputs_config"),
        ("engine", "best_of: 2", "each request sets it"),
        ("engine", "temperature: 0.6", "override_generation_config: {temperature: 0.6}"),
        ("server", "allowed_origins: ['https://ui.example/']", "equals no origin that a browser sends"),
        ("server", "allowed_origins: [ui.example]", "equals no origin that a browser sends"),
        ("server", "root_path: llm", "starts with /"),
        ("server", "root_path: /llm/", "does not end in one"),
        ("server", "ssl_cert_reqs: CERT_REQUIRED", "(example: 2)"),
    ],
)
def test_what_to_write_instead(tmp_path: Path, block: str, line: str, part: str) -> None:
    text = BASE + f"  {line}\n" if block == "engine" else f"{BASE}server:\n  {line}\n"
    (problem,) = problems_of(write(tmp_path, text))
    assert part in problem


@pytest.mark.parametrize(
    ("lines", "part"),
    [
        ("ssl_keyfile: /k", "server.ssl_keyfile: has no effect without ssl_certfile"),
        ("ssl_ca_certs: /a", "server.ssl_ca_certs: has no effect without ssl_certfile"),
        ("ssl_cert_reqs: 2", "server.ssl_cert_reqs: has no effect without ssl_certfile"),
        ("ssl_certfile: /c\n  ssl_cert_reqs: 2", "server.ssl_cert_reqs: needs ssl_ca_certs"),
    ],
)
def test_no_tls_option_is_without_effect(tmp_path: Path, lines: str, part: str) -> None:
    """A service whose user set a key or asked for client certificates does not speak plain HTTP."""
    (problem,) = problems_of(write(tmp_path, f"{BASE}server:\n  {lines}\n"))
    assert part in problem


def test_origins_and_root_paths_that_work(tmp_path: Path) -> None:
    """What browsers and proxies send."""
    for value in ("[https://ui.example, 'http://127.0.0.1:3000', '*']", "['null', 'chrome-extension://abc']"):
        load(write(tmp_path), f"server.allowed_origins={value}")
    load(write(tmp_path), "server.root_path=/a/b")


def test_the_tables_name_no_option_of_vllm() -> None:
    """Each name is unknown to the pinned vLLM, and what it stands for is known."""
    known = {name for block in ("engine", "server", "cluster") for name in read_shipped().list_fields(block)}
    assert not known & (EXPLAINED.keys() | MEANT.keys())
    assert set(MEANT.values()) <= known
