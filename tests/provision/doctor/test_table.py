"""What doctor prints for people: short where all is well, and each problem with its fix at 80 columns."""

from collections.abc import Callable

import pytest

from raylaunch.config.cluster_file import ClusterFile
from raylaunch.provision.doctor.diagnose import Diagnosis
from raylaunch.provision.doctor.table import make_table, summarize
from raylaunch.provision.doctor.verdicts import Check, Verdict
from tests.provision.doctor.conftest import HEAD, WORKER


@pytest.fixture
def diagnose(load_cluster: Callable[..., ClusterFile]) -> Callable[..., Diagnosis]:
    def make(*verdicts: Verdict) -> Diagnosis:
        return Diagnosis(load_cluster(), verdicts, 0.84)

    return make


def list_text(diagnosis: Diagnosis, *, verbose: bool = False, width: int | None = 80) -> list[str]:
    return [line for _, line in make_table(diagnosis, verbose=verbose, width=width, lists_by="-v")]


def test_healthy_hosts_take_one_line(diagnose: Callable[..., Diagnosis]) -> None:
    """And the next command; -v lists every check."""
    sound = diagnose(
        Check("docker", HEAD).ok("20.10"), Check("docker", WORKER).ok("20.10"), Check("memory", HEAD).ok("x")
    )
    assert list_text(sound) == ["3 checks ok: 2 hosts, 0.8 s; -v lists them"]
    assert summarize(sound, "raylaunch up c.yaml") == "ready: raylaunch up c.yaml"
    assert list_text(sound, verbose=True)[1:] == ["ok: docker on all 2: 20.10", f"ok: memory on {HEAD}: x"]


def test_a_problem_has_its_fix_on_a_line_of_its_own(diagnose: Callable[..., Diagnosis]) -> None:
    """Folded at 80 columns: a command stays one when it is pasted; not folded where there is no terminal."""
    what = "docker cannot pass GPUs to containers: nvidia-container-toolkit is missing, as it seems"
    fix = "sudo apt-get install -y nvidia-container-toolkit && sudo nvidia-ctk runtime configure --runtime=docker"
    found = diagnose(Check("docker", HEAD).ok("20.10"), Check("NVIDIA runtime", WORKER).failed(what, fix))
    lines = list_text(found)
    assert max(map(len, lines)) <= 80
    assert lines[1] == f"failed: NVIDIA runtime on {WORKER}"
    fixed = "\n".join(lines[lines.index(next(line for line in lines if "to do: " in line)) :])
    assert " ".join(fixed.replace("\\\n", " ").split()) == f"to do: {fix}"
    assert list_text(found, width=None)[2:] == [f"    {what}", f"    to do: {fix}"]
    assert summarize(found, "") == f"not ready: 1 problem on {WORKER}"


def test_what_follows_from_a_failure_is_not_shown(diagnose: Callable[..., Diagnosis]) -> None:
    """It is counted. A check that was not made for a reason of its own is shown, one that needs an argument is not."""
    found = diagnose(
        Check("docker", WORKER).failed("docker is not installed", "install it"),
        Check("image", WORKER).unknown("docker does not answer there"),
        Check("clock", HEAD).unknown("no Python there"),
        Check("model disk", HEAD).unknown("74 GB free", "name the launch file"),
    )
    text = "\n".join(list_text(found))
    assert "0 checks ok, 2 not made: " in text
    assert "not checked: clock on 10.0.0.11" in text
    assert "image" not in text
    assert "model disk" not in text
    assert "not checked: image on" in "\n".join(list_text(found, verbose=True))
