"""The listener: 503 in the format of OpenAI's API, with TLS too, and a hand-over of the socket that loses no client."""

import http.client
import json
import os
import resource
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from raylaunch.base.errors import LaunchFileError, PortTakenError
from raylaunch.base.processes import wait_until
from raylaunch.serve.listener import Listener, listen, make_tls
from raylaunch.serve.start_forecast import LONGEST_S
from raylaunch.serve.unready_answer import AnswerRules, Notice, RequestHead, make_answer
from tests.private_ca import PrivateCa

IDLE_CLIENTS = """\
import resource, socket, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (1000, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
clients = [socket.create_connection(("127.0.0.1", int(sys.argv[1]))) for _ in range(300)]
print("here", flush=True)
sys.stdin.read()
"""
NOTICE = Notice("restarting", "restarting: waiting for GPUs, 8 of 16", 7, "raylaunch_up 0\n")
CHILD = """\
import select, socket, sys
listening = socket.socket(fileno=int(sys.argv[1]))
print("accepting", flush=True)
while sys.stdin not in select.select([listening, sys.stdin], [], [])[0]:
    try:
        connection, _ = listening.accept()
    except BlockingIOError:
        continue
    connection.setblocking(True)
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\nConnection: close\\r\\n\\r\\nOK")
    connection.close()
"""


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with listen("127.0.0.1", 0) as bound:
        yield bound


def port_of(bound: socket.socket) -> int:
    return int(bound.getsockname()[1])


def test_503_reports_what_happens_and_when_to_retry(listening: socket.socket) -> None:
    """The openai client raises its own error; Retry-After is set; /metrics has the service's metrics."""
    import openai

    listener = Listener(listening, lambda: NOTICE)
    listener.resume()
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{port_of(listening)}/v1", api_key="none", max_retries=0)
    with pytest.raises(openai.InternalServerError) as caught:
        client.completions.create(model="any", prompt="x" * 200_000)
    assert caught.value.status_code == 503
    assert "waiting for GPUs, 8 of 16" in caught.value.message
    assert caught.value.response.headers["retry-after"] == "7"
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["type"] == "Service Unavailable"
    connection = http.client.HTTPConnection("127.0.0.1", port_of(listening), timeout=10)
    connection.request("GET", "/metrics")
    answer = connection.getresponse()
    assert (answer.status, answer.read()) == (200, b"raylaunch_up 0\n")
    listener.close()


def test_idle_connections_leave_files_to_start_an_engine() -> None:
    """300 connections that ask nothing, where 200 more files may be open: some stay free, later comers are answered."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = len([*Path("/proc/self/fd").iterdir()])  # other tests of this process may have left some open
    resource.setrlimit(resource.RLIMIT_NOFILE, (before + 200, hard))
    try:
        with listen("127.0.0.1", 0) as bound:
            listener = Listener(bound, lambda: NOTICE)
            listener.resume()
            with subprocess.Popen(
                [sys.executable, "-c", IDLE_CLIENTS, str(port_of(bound))], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            ) as clients:
                assert clients.stdout is not None
                assert clients.stdout.readline() == b"here\n"
                assert wait_until(lambda: len([*Path("/proc/self/fd").iterdir()]) > before + 100, 30)  # it accepts them
                time.sleep(1.0)  # and accepts no more after that
                free = [os.pipe() for _ in range(20)]
                for pipe in free:
                    os.close(pipe[0])
                    os.close(pipe[1])
                clients.communicate()
            connection = http.client.HTTPConnection("127.0.0.1", port_of(bound), timeout=30)
            connection.request("GET", "/health")
            assert connection.getresponse().status == 503
            listener.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_nodes_are_reported_to_clients_with_a_key_only() -> None:
    head = "GET /v1/models HTTP/1.1\r\nHost: x\r\n{}\r\n"
    rules = AnswerRules(("sk-1",))
    stranger = make_answer(RequestHead.parse(head.format("")), NOTICE, rules)
    holder = make_answer(RequestHead.parse(head.format("Authorization: Bearer sk-1\r\n")), NOTICE, rules)
    assert b"waiting for GPUs" not in stranger
    assert b"503" in stranger
    assert b"waiting for GPUs" in holder
    other = make_answer(RequestHead.parse(head.format("authorization: bearer sk-1\r\n")), NOTICE, rules)
    assert other == holder
    asked = RequestHead.parse("HEAD /health HTTP/1.1\r\n\r\n")
    assert make_answer(asked, NOTICE, AnswerRules()).endswith(b"\r\n\r\n")


def test_answers_use_the_servers_tls(listening: socket.socket, tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    listener = Listener(
        listening, lambda: NOTICE, tls=make_tls({"ssl_certfile": str(certificate), "ssl_keyfile": str(key)})
    )
    listener.resume()
    context = ssl.create_default_context(cafile=str(certificate))
    context.check_hostname = False
    connection = http.client.HTTPSConnection("127.0.0.1", port_of(listening), timeout=10, context=context)
    connection.request("GET", "/health")
    answer = connection.getresponse()
    assert answer.status == 503
    assert "restarting" in json.loads(answer.read())["error"]["message"]
    listener.close()


def test_a_missing_certificate_is_reported(tmp_path: Path) -> None:
    with pytest.raises(LaunchFileError, match=r"nothing\.pem"):
        make_tls({"ssl_certfile": str(tmp_path / "nothing.pem")})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"ssl_keyfile": "nothing.key"}, "cannot read nothing.key: No such file"),
        ({"ssl_keyfile": "ca/client.key"}, "cannot use ca/client.key: key values mismatch"),
        ({"ssl_certfile": "ca/server.key"}, "cannot use ca/server.key: no certificate or crl found"),
        ({"ssl_ca_certs": "nothing.pem"}, "cannot read nothing.pem: No such file"),
        ({"ssl_ca_certs": "ca/ca.key"}, "cannot use ca/ca.key: no certificate or crl found"),
        ({"ssl_ciphers": "NOPE"}, "server.ssl_ciphers: OpenSSL knows no cipher in 'NOPE'"),
    ],
)
def test_the_file_at_fault_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, str], said: str
) -> None:
    """Not the certificate, where it is the key, the CA's file or a cipher."""
    PrivateCa.make(tmp_path / "ca")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LaunchFileError) as caught:
        make_tls({"ssl_certfile": "ca/server.pem", "ssl_keyfile": "ca/server.key"} | options)
    assert said in caught.value.what


def test_a_key_with_a_passphrase_is_refused(tmp_path: Path) -> None:
    """And not asked for: a service has no one at its terminal."""
    certificate, key = PrivateCa.make(tmp_path / "ca").server
    locked = tmp_path / "locked.key"
    command = ["openssl", "pkey", "-aes256", "-passout", "pass:x", "-in", key, "-out", locked]
    subprocess.run(command, check=True, capture_output=True)
    with pytest.raises(LaunchFileError) as caught:
        make_tls({"ssl_certfile": str(certificate), "ssl_keyfile": str(locked)})
    assert "without a passphrase" in caught.value.fix


def test_hand_over_and_back_refuses_and_loses_no_client(listening: socket.socket) -> None:
    """A child takes the socket over and gives it back, five times; every connection of a hammer gets an answer."""
    listener = Listener(listening, lambda: NOTICE)
    listener.resume()
    statuses: list[int] = []
    failures: list[str] = []
    stop = threading.Event()

    def hammer() -> None:
        while not stop.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", port_of(listening), timeout=30)
            try:
                connection.request("GET", "/health")
                statuses.append(connection.getresponse().status)
            except (OSError, http.client.HTTPException) as error:
                failures.append(repr(error))
            connection.close()

    threads = [threading.Thread(target=hammer) for _ in range(4)]
    for thread in threads:
        thread.start()
    for turn in range(5):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(listening.fileno())], pass_fds=(listening.fileno(),),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ,
        )  # fmt: skip
        assert child.stdout is not None
        assert child.stdout.readline() == b"accepting\n"
        listener.pause()
        wait_for_more(statuses, 200, 20)
        listener.resume()
        if turn % 2:
            child.kill()
        else:
            child.communicate(b"\n", timeout=30)
        child.wait()
        wait_for_more(statuses, 503, 20)
    stop.set()
    for thread in threads:
        thread.join()
    listener.close()
    assert set(statuses) == {200, 503}
    # The connection that a killed child was just answering dies with it, and no other.
    assert not [failure for failure in failures if "refused" in failure.lower() or "timed out" in failure.lower()]
    assert len(failures) <= 2, failures


def wait_for_more(statuses: list[int], status: int, count: int) -> None:
    wanted = statuses.count(status) + count
    until = time.monotonic() + 60
    while statuses.count(status) < wanted:
        assert time.monotonic() < until
        time.sleep(0.01)


def send_retry(bound: socket.socket, *, lists_models: bool = False) -> socket.socket:
    """The second try of an official client, with the first bytes of its body."""
    client = socket.create_connection(("127.0.0.1", port_of(bound)), timeout=30)
    head = b"GET /v1/models HTTP/1.1\r\n" if lists_models else b"POST /v1/messages HTTP/1.1\r\nContent-Length: 9\r\n"
    client.sendall(head + b"X-Stainless-Retry-Count: 1\r\n\r\n" + b"{" * (not lists_models))
    return client


def test_a_retry_is_held_until_an_engine_accepts_or_the_service_stops(listening: socket.socket) -> None:
    """Two retries wait; a first try beside them is answered at once. Then an engine accepts, or a stop begins."""
    notices = [NOTICE]
    listener = Listener(listening, lambda: notices[-1])
    listener.resume()
    for answer, end in ((b"Retry-After: 1\r\n", listener.pause), (b"stopping", listener.resume)):
        held = [send_retry(listening), send_retry(listening, lists_models=True)]
        assert wait_until(lambda: listener.held == 2, 30)
        connection = http.client.HTTPConnection("127.0.0.1", port_of(listening), timeout=30)
        connection.request("POST", "/v1/messages", "{}", {"X-Stainless-Retry-Count": "0"})
        assert connection.getresponse().headers["retry-after"] == "7"
        if answer == b"stopping":
            notices.append(Notice("stopping", "stopping", None, ""))
        end()
        for client in held:
            got = b"".join(iter(lambda client=client: client.recv(65536), b""))
            assert got.startswith(b"HTTP/1.1 503")
            assert answer in got
            assert (b"Retry-After" in got) == (answer != b"stopping")
            client.close()
        listener.resume()
    listener.close()


def test_a_retry_is_answered_before_its_client_gives_up(listening: socket.socket) -> None:
    """A client with a short timeout of its own is told to wait, instead of counting a timeout as a try."""
    listener = Listener(listening, lambda: NOTICE)
    listener.resume()
    for name in ("X-Stainless-Read-Timeout", "X-Stainless-Timeout"):
        connection = http.client.HTTPConnection("127.0.0.1", port_of(listening), timeout=30)
        connection.request("POST", "/v1/messages", "{}", {"X-Stainless-Retry-Count": "1", name: "0.2"})
        assert connection.getresponse().headers["retry-after"] == str(LONGEST_S)
    listener.close()


def test_held_clients_that_go_are_forgotten_and_their_number_is_bounded(listening: socket.socket) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    try:
        listener = Listener(listening, lambda: NOTICE)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    listener.resume()
    clients = [send_retry(listening) for _ in range(50)]
    assert wait_until(lambda: listener.held == 50, 30)
    one_more = send_retry(listening)
    assert one_more.recv(65536).startswith(b"HTTP/1.1 503")  # at once
    for client in (*clients, one_more):
        client.close()
    assert wait_until(lambda: listener.held == 0, 30)
    listener.close()


def test_a_taken_port_is_reported(listening: socket.socket) -> None:
    with pytest.raises(PortTakenError):
        listen("127.0.0.1", port_of(listening))
