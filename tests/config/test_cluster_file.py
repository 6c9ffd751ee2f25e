"""The cluster file: what is read from it, and how problems are reported."""

import json
import socket
from pathlib import Path

import pytest
import yaml

from raylaunch.base.errors import ClusterFileError
from raylaunch.config import cluster_file, cluster_ports
from raylaunch.config.cluster_file import ClusterFile

COMPLETE = """\
cluster_name: two-node
provider:
  type: local
  head_ip: 10.0.0.1
  worker_ips: [10.0.0.2, 10.0.0.3]
auth:
  ssh_user: ubuntu
  ssh_private_key: ~/.ssh/id_ed25519
docker:
  image: vllm/vllm-openai:v0.32.0
  container_name: raylaunch
  pull_before_run: false
  run_options:
    - --gpus all --ipc=host
    - --shm-size 10.24g
    - -v /srv/models:/data
    - -e NCCL_SOCKET_IFNAME=$(ip route get 10.0.0.9 | cut -d' ' -f3)
    - -e NCCL_P2P_DISABLE=1
initialization_commands:
  - docker image inspect x || docker build -t x -
head_start_ray_commands:
  - ray stop
"""


def write(folder: Path, content: str = COMPLETE) -> Path:
    path = folder / "cluster.yaml"
    path.write_text(content)
    return path


def load(folder: Path, content: str = COMPLETE) -> ClusterFile:
    return cluster_file.load(write(folder, content))


def problems_of(folder: Path, content: str) -> tuple[str, ...]:
    with pytest.raises(ClusterFileError) as caught:
        load(folder, content)
    assert caught.value.fix
    return tuple(problem.replace(f"{folder}/", "") for problem in caught.value.problems)


def test_complete_file(tmp_path: Path) -> None:
    """Everything raylaunch acts on, with Ray's own defaults for what was left out."""
    cluster = load(tmp_path)
    assert cluster.hosts == ("10.0.0.1", "10.0.0.2", "10.0.0.3")
    assert cluster.ssh_private_key == Path.home() / ".ssh/id_ed25519"
    assert (cluster.image, cluster.container_name) == ("vllm/vllm-openai:v0.32.0", "raylaunch")
    assert load(tmp_path, COMPLETE.replace("  ssh_private_key: ~/.ssh/id_ed25519\n", "")).ssh_private_key is None


def test_the_document_holds_what_only_ray_reads(tmp_path: Path) -> None:
    """All keys for Ray's launcher; `use_podman: false` is accepted."""
    text = COMPLETE.replace("  pull_before_run: false\n", "  use_podman: false\n")
    document = json.loads(load(tmp_path, text).document)
    assert document == yaml.safe_load(text)
    assert document["head_start_ray_commands"] == ["ray stop"]


def test_run_options_are_found(tmp_path: Path) -> None:
    """Options, variables and mounts, however they are written."""
    cluster = load(tmp_path)
    assert cluster.find_option("--gpus") == "all"
    assert cluster.find_option("--ipc") == "host"
    assert cluster.find_option("--shm-size") == "10.24g"
    assert cluster.find_option("--privileged") is None
    assert cluster.find_variable("NCCL_P2P_DISABLE") == "1"
    assert cluster.find_variable("GLOO_SOCKET_IFNAME") is None
    assert cluster.model_folder == "/srv/models"
    assert load(tmp_path, COMPLETE.replace("    - -v /srv/models:/data\n", "")).model_folder == "/data"


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("head_ip: 10.0.0.1", "head_ip: 10", "cluster.yaml:4: provider.head_ip: expected text, got an integer "
         "(10): put it in quotes"),
        ("head_ip: 10.0.0.1", "head_ip: -oProxyCommand=x", 'cluster.yaml:4: provider.head_ip: "-oProxyCommand=x" is '
         'not an address'),
        ("head_ip: 10.0.0.1", "head_ip: 127.0.0.1", "cluster.yaml:2: provider: 127.0.0.1 is a different machine "
         "on every host: use an address of the network"),
        ("10.0.0.3]", "10.0.0.1]", "cluster.yaml:5: provider.worker_ips: 10.0.0.1 is listed twice among the hosts"),
        ("type: local", "type: aws", 'cluster.yaml:3: provider.type: "aws" is not a choice; choose one of local'),
        ("  ssh_user: ubuntu\n", "", "auth.ssh_user is missing (example: ssh_user: ubuntu)"),
        ("  container_name: raylaunch\n", "  containr_name: raylaunch\n", "cluster.yaml:11: docker.containr_name: "
         "unknown key; nearest is container_name (example: container_name: raylaunch)"),
        ("initialization_commands:", "initialisation_commands:", "cluster.yaml:19: initialisation_commands: "
         "unknown key; nearest is initialization_commands (example: initialization_commands: [a, b])"),
        ("container_name: raylaunch", "container_name: a; reboot", 'cluster.yaml:11: docker.container_name: "a; '
         'reboot" may only hold letters, digits, dots, dashes and underscores'),
        ("  pull_before_run: false\n", "  use_podman: true\n", "cluster.yaml:12: docker.use_podman: podman is not "
         "supported yet; set it to false or leave it out"),
        ("cluster_name: two-node", "cluster_name: two-node\ncluster_name: x", "cluster.yaml:2: cluster_name: duplicate "
         "key, first on line 1"),
    ],
)  # fmt: skip
def test_one_bad_line_is_reported_with_its_place(tmp_path: Path, old: str, new: str, problem: str) -> None:
    assert old in COMPLETE
    assert problem in problems_of(tmp_path, COMPLETE.replace(old, new, 1))


def test_a_launch_file_is_named_as_such(tmp_path: Path) -> None:
    """And a single block of one is an unknown key."""
    (problem,) = problems_of(tmp_path, "model: {repo: a/b}\nengine: {seed: 1}\n")
    assert "this is no cluster file: it has engine and model" in problem
    assert "engine: unknown key" in " ".join(problems_of(tmp_path, COMPLETE + "engine: {seed: 1}\n"))


NAME = "cluster_name: two-node"
VOLUME = "-v /srv/models:/data"


@pytest.mark.parametrize(
    ("old", "new", "where", "what"),
    [
        ("auth:\n", "auth:\n  ssh_port: 22\n", "7: auth.ssh_port", "ssh takes the port from ~/.ssh/config"),
        ("auth:\n", "auth:\n  ssh_usr: x\n", "7: auth.ssh_usr", "unknown key; nearest is ssh_user"),
        ("  type", "  head_ipp: x\n  type", "3: provider.head_ipp", "unknown key; nearest is head_ip"),
        ("  type", "  region: x\n  type", "3: provider.region", "unknown key; valid are type, head_ip, worker_ips"),
        ("10.0.0.3]", '"10.0.0.3:22"]', "5: provider.worker_ips", '"10.0.0.3:22" holds a port: write 10.0.0.3 alone'),
        (
            "ip: 10.0.0.1",
            "ip: mia@10.0.0.1",
            "4: provider.head_ip",
            '"mia@10.0.0.1" names a user: write it as auth.ssh_',
        ),
        ("ip: 10.0.0.1", "ip: 10.0.0.256", "4: provider.head_ip", '"10.0.0.256" is not an IPv4 address: four numbers'),
        ("auth:\n", "auth:\n  ssh_password: x\n", "7: auth.ssh_password", "logs in with a key alone"),
        ("ssh_user: ubuntu", "ssh_user: mia@10.0.0.1", "7: auth.ssh_user", "names a host: write mia alone"),
        ("image: vllm/", "image: vllm/V", "10: docker.image", "small letters only"),
        ("image: vllm/", "image: vLLM/v", "10: docker.image", "small letters only"),
        ("image: vllm/", "image: https://v/", "10: docker.image", "leave out https://"),
        ("auth:\n", "auth:\n  ssh_proxy_jump: b\n", "7: auth.ssh_proxy_jump", "ssh -W %h:%p BASTION"),
        ("--gpus all", "--gpus all --shm-size=10Gi", "13: docker.run_options", "10Gi: docker reads a number"),
        ("--gpus all", "--gpus all --name x", "13: docker.run_options", "gives each container docker.container_name"),
        ("--gpus all", "--gpus all --network=bridge", "13: docker.run_options", "gives each container --net=host"),
        ("10.0.0.3]", "10.0.0.3-5]", "5: provider.worker_ips", '"10.0.0.3-5" is not an IPv4 address'),
        ("10.0.0.3]", '"10.0.0.[3-5]"]', "5: provider.worker_ips", '"10.0.0.[3-5]" is not an address'),
        ("  type", "  ssh_port: 22\n  type", "3: provider.ssh_port", "unknown key; valid are type, head_ip"),
        ("ip: 10.0.0.1", 'ip: "fd00::1"', "4: provider.head_ip", '"fd00::1" is an IPv6 address, which Ray'),
        ("ip: 10.0.0.1", 'ip: "[fd00::1]:22"', "4: provider.head_ip", "holds a port: write fd00::1 alone"),
        ("ssh_user: ubuntu", 'ssh_user: "a b; c"', "7: auth.ssh_user", "is not a user name"),
        ("  image: v", "  head_image: x\n  image: v", "10: docker.head_image", "every node has to run the same image"),
        ("--gpus all", "--gpus device=2,3", "13: docker.run_options", "it is a list: --gpus '\"device=2,3\"'"),
        (
            VOLUME,
            f"{VOLUME} -v /x:/data/",
            "13: docker.run_options",
            "two volumes have the path /data",
        ),
        (VOLUME, "-v /big disk:/data", "13: docker.run_options", '"disk:/data" belongs to no option'),
        (VOLUME, "-v /srv/models:data", "13: docker.run_options", "it has to start with /"),
        (VOLUME, "-v '/srv/models:/data", "13: docker.run_options", "is not closed"),
        (NAME, f"{NAME}\nmax_workers: 1", "2: max_workers", "Ray would start 1 of the 2 workers"),
        (NAME, f"{NAME}\nhead_node_type: x", "2: head_node_type", "Ray has no node types for hosts of one's own"),
        (NAME, f"{NAME}\navailable_node_types: {{a: {{}}}}", "2: available_node_types", "is set up alike"),
        (
            NAME,
            f"{NAME}\ncluster_synced_files: [1]",
            "2: cluster_synced_files",
            "entry 1: expected text",
        ),
        (
            NAME,
            f"{NAME}\nfile_mounts: {{/x: /no/such}}",
            "2: file_mounts./x",
            "/no/such does not exist",
        ),
    ],
)
def test_what_docker_and_rays_launcher_would_fail_at(tmp_path: Path, old: str, new: str, where: str, what: str) -> None:
    """In every block, before a host is contacted."""
    assert old in COMPLETE
    (problem,) = problems_of(tmp_path, COMPLETE.replace(old, new, 1))
    assert problem.startswith(f"cluster.yaml:{where}: ")
    assert what in problem


@pytest.mark.parametrize("user", ["alice@corp.example", "'CORP\\alice'", "1000user", "svc+ray", "jürgen", "machine$"])
def test_users_that_ssh_accepts(tmp_path: Path, user: str) -> None:
    assert load(tmp_path, COMPLETE.replace("ssh_user: ubuntu", f"ssh_user: {user}")).ssh_user == user.strip("'")


def test_a_name_and_its_address_are_one_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that do not resolve here are left to doctor."""
    names = {"gpu-a": "10.0.0.2", "self": "127.0.1.1"}

    def look_up(name: str, *_: object, **__: object) -> list[tuple[object, ...]]:
        if name not in names:
            raise socket.gaierror
        return [(0, 0, 0, "", (names[name], 0))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    assert problems_of(tmp_path, COMPLETE.replace("head_ip: 10.0.0.1", "head_ip: gpu-a")) == (
        "cluster.yaml:5: provider.worker_ips: 10.0.0.2 and gpu-a are one machine (10.0.0.2): list it once",
    )
    assert (
        "GPU-X is listed twice among the hosts"
        in problems_of(tmp_path, COMPLETE.replace("[10.0.0.2, 10.0.0.3]", "[gpu-x, GPU-X]"))[0]
    )
    assert (
        "self resolves to 127.0.1.1, which is a different machine on every host"
        in problems_of(tmp_path, COMPLETE.replace("head_ip: 10.0.0.1", "head_ip: self"))[0]
    )
    assert load(tmp_path, COMPLETE.replace("[10.0.0.2, 10.0.0.3]", "[gpu-x, gpu-y]")).worker_ips == ("gpu-x", "gpu-y")


def test_head_and_workers_may_have_options_of_their_own(tmp_path: Path) -> None:
    """Mixed hosts: Ray appends them to those of all."""
    text = COMPLETE.replace("--gpus all --ipc=host", "--ipc=host").replace(
        "  run_options:", "  head_run_options: [--gpus 4]\n  worker_run_options: [--gpus all]\n  run_options:"
    )
    cluster = load(tmp_path, text)
    assert cluster.gpu_request_of("10.0.0.1").count == 4
    assert cluster.gpu_request_of("10.0.0.3").names is None


def test_what_is_no_cluster_file(tmp_path: Path) -> None:
    """No file, a folder, no blocks."""
    with pytest.raises(ClusterFileError, match="1 problem"):
        cluster_file.load(tmp_path / "absent.yaml")
    with pytest.raises(ClusterFileError) as caught:
        cluster_file.load(tmp_path)
    assert "is a directory, not a cluster file" in caught.value.problems[0]
    assert problems_of(tmp_path, "") == (
        "cluster.yaml:1: column 1: the file is empty; it needs a `cluster_name:` and a `provider:` block at least",
    )


def test_ports_are_distinct() -> None:
    """No port has two owners, none is vLLM's, and workers have a range to themselves."""
    single = [*cluster_ports.EVERY_NODE, *cluster_ports.HEAD, cluster_ports.DASHBOARD]
    assert len(set(single)) == len(single)
    assert 8080 not in single
    assert not [port for port in single if cluster_ports.MIN_WORKER <= port <= cluster_ports.MAX_WORKER]
    assert cluster_ports.describe(6379) == "6379 (GCS)"
    assert cluster_ports.describe(10100) == "10100 (workers)"


def test_the_image_is_changed_and_nothing_else(tmp_path: Path) -> None:
    """Comments and quotes stay; an image that docker would reject, and one behind an alias, are not written."""
    path = write(tmp_path, COMPLETE.replace("v0.32.0", "v0.32.0 # pinned").replace("ubuntu", "'ubuntu'"))
    before = path.read_text()
    cluster_file.write_image(path, "registry.example:5000/next@sha256:" + "0" * 64)
    assert path.read_text() == before.replace(
        "vllm/vllm-openai:v0.32.0", "registry.example:5000/next@sha256:" + "0" * 64
    )
    for wrong in ("a b", "a;b", "a # b", ""):
        with pytest.raises(ClusterFileError):
            cluster_file.change_image(path, wrong)
    path = write(
        tmp_path,
        COMPLETE.replace("cluster_name: two-node", "cluster_name: &name two-node").replace(
            "vllm/vllm-openai:v0.32.0", "*name"
        ),
    )
    with pytest.raises(ClusterFileError):
        cluster_file.change_image(path, "next")
