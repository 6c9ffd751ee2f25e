"""Logs of all hosts: what the script finds, and how a host's clock and zone correct the times in them."""

from pathlib import Path

import pytest

from raylaunch.base.errors import ClusterError
from raylaunch.config.cluster_file import ClusterFile
from raylaunch.explain.read import explain_logs
from raylaunch.provision.host_logs import fetch_logs, read_clock, read_zone
from tests.provision.conftest import HEAD, WORKER, FakeSsh

DOCKER = """\
case "$1" in
inspect) ;;
logs) echo "2026-11-24T02:47:09.1Z (raylet, ip=10.0.0.2) Raylet is terminated." ;;
exec) shift 2; case "$1" in date) echo +0100 ;; *) exit 1 ;; esac ;;
cp) case "$2" in *:/root/.raylaunch/services) mkdir -p "$3/services/8080"
    echo "ERROR 11-24 03:47:02 [c.py:5] CUDA out of memory. Tried to" >"$3/services/8080/engine.log" ;; esac ;;
esac
"""


def test_logs_of_a_stopped_container_are_explained(
    cluster: ClusterFile, fake_ssh: FakeSsh, add_program: object, capsys: pytest.CaptureFixture[str]
) -> None:
    """The real script with a container that has ended; a host that is off is reported and does not end it."""
    add_program("docker", DOCKER)  # type: ignore[operator]
    fake_ssh.answer("uptime", host=HEAD, here=True)
    fake_ssh.answer("bash -s", host=HEAD, here=True)
    fake_ssh.answer("", host=WORKER, status=255, stderr="ssh: connect to host 10.0.0.2 port 22: No route to host")
    with fetch_logs(cluster) as sources:
        names = [source.origin.name for source in sources]
        found = explain_logs(sources)
        folder = Path(sources[0].open().name)  # type: ignore[attr-defined]
    assert not folder.exists()
    assert any(name.startswith(f"{HEAD}:docker logs ") for name in names)
    (cause,) = [cause for cause in found.causes if cause.key == "gpu_oom"]
    assert cause.where[0].host == HEAD
    assert cause.where[0].file.endswith("services/8080/engine.log")
    assert f"{WORKER} cannot be reached" in capsys.readouterr().err


REMOVED = """\
case "$1" in
inspect) exit 1 ;;
volume) [ "$*" = "volume inspect raylaunch-test-home raylaunch-test-ray" ] ;;
events) echo "2026-11-24T02:47:09.1+00:00 container die 5d1e0d5cfbd1 (exitCode=137, name=raylaunch)" ;;
run) shift; kept={kept}
    while [ "$1" != -c ]; do
        case "$1" in {image} | -* | none | never | sh | raylaunch-test-*:ro) shift ;; *) exit 1 ;; esac
    done
    sh -c "$2" sh "$kept" "$5" "$6" ;;
esac
"""


def test_logs_outlive_the_container(
    cluster: ClusterFile, fake_ssh: FakeSsh, add_program: object, tmp_path: Path
) -> None:
    """Docker has removed it: its volumes have raylaunch's logs and Ray's last session, and docker how it ended."""
    kept = tmp_path / "kept"
    for log, line in {
        "root/.raylaunch/services/8080/engine.log": "ERROR 11-24 03:47:02 [c.py:5] CUDA out of memory. Tried to",
        "tmp/ray/session_2026-11-24_02-00-00_1_1/logs/raylet.out": "healthy",
    }.items():
        (kept / log).parent.mkdir(parents=True)
        (kept / log).write_text(f"{line}\n")
    add_program("docker", REMOVED.format(kept=kept, image=cluster.image))  # type: ignore[operator]
    for host in cluster.hosts:
        fake_ssh.answer("uptime", host=host, here=True)
        fake_ssh.answer("bash -s", host=host, here=True)
    with fetch_logs(cluster) as sources:
        names = {source.origin.name for source in sources}
        found = explain_logs(sources)
    assert f"{HEAD}:/tmp/ray/session_2026-11-24_02-00-00_1_1/logs/raylet.out" in names
    (cause,) = [cause for cause in found.causes if cause.key == "gpu_oom"]
    assert {place.host for place in cause.where} == {HEAD, WORKER}
    assert f"{HEAD}:docker events raylaunch" in names


def test_no_host_is_an_error(cluster: ClusterFile, fake_ssh: FakeSsh) -> None:
    fake_ssh.answer("", status=255, stderr="Permission denied (publickey).")
    with pytest.raises(ClusterError, match="no host can be reached"), fetch_logs(cluster):
        pass


def test_clocks_are_compared() -> None:
    """A difference below the time that asking took is none."""
    clock = read_clock("1040.0\n-0130\n500.25\n", 999.0, 1001.0)
    assert (clock.ahead_s, clock.utc_offset_s, clock.booted_at) == (40.0, -5400, 539.75)
    assert read_clock("1000.5\n+0000\n1.0\n", 999.0, 1001.0).ahead_s == 0.0
    assert read_clock("date: not found", 999.0, 1001.0).booted_at is None


@pytest.mark.parametrize(("text", "seconds"), [("+0530", 19800), ("-03:00", -10800), ("", None), ("UTC", None)])
def test_zones(text: str, seconds: int | None) -> None:
    assert read_zone(text) == seconds
