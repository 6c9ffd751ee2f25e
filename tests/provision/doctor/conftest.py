"""Recorded answers of the probe, as facts. They come from a rig's hosts; GPUs there are the stand-in's."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raylaunch.config import cluster_file
from raylaunch.config.cluster_file import ClusterFile
from raylaunch.provision.doctor import probe_facts
from raylaunch.provision.doctor.gather import ClusterFacts, HostFacts, NetworkFacts, list_ports, make_facts

DATA = Path(__file__).resolve().parents[2] / "data" / "hosts"
MARK = "@mark"
HEAD, WORKER = "10.0.0.11", "10.0.0.12"
CLUSTER = f"""\
cluster_name: two
provider: {{type: local, head_ip: {HEAD}, worker_ips: [{WORKER}]}}
auth: {{ssh_user: mia, ssh_private_key: /keys/id}}
docker:
  image: vllm/vllm-openai:v0.32.0
  container_name: raylaunch
  run_options: [--gpus all, --ipc=host]
"""


def read_probe(name: str) -> probe_facts.Probe:
    return probe_facts.split((DATA / f"probe-{name}.txt").read_text(), MARK)


@pytest.fixture
def load_cluster(tmp_path: Path) -> Callable[..., ClusterFile]:
    """The cluster file of these tests, with parts of it replaced."""

    def load(*changes: tuple[str, str]) -> ClusterFile:
        text = CLUSTER
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        (tmp_path / "cluster.yaml").write_text(text)
        return cluster_file.load(tmp_path / "cluster.yaml")

    return load


@pytest.fixture
def make_host(load_cluster: Callable[..., ClusterFile]) -> Callable[..., HostFacts]:
    """A sound host made of the recorded busy one, with facts changed by name."""

    def make(address: str, **changes: Any) -> HostFacts:
        ports = frozenset(list_ports(load_cluster(), address))
        other = WORKER if address == HEAD else HEAD
        reached = {other: dict.fromkeys(list_ports(load_cluster(), other), "open") | {22: "open"}}
        found = make_facts(address, read_probe("busy"), NetworkFacts(ports, frozenset(), reached, 0.01))
        free = tuple(replace(gpu, used_mib=0) for gpu in found.gpus.gpus)
        sound = replace(
            found,
            objects=replace(found.objects, container=None),
            gpus=probe_facts.HostGpus("", free),
            sockets=frozenset({22}),
            route=probe_facts.Route("eth0", address, 1500, 10_000),
        )
        return replace(sound, **changes)

    return make


@pytest.fixture
def look_at() -> Callable[..., ClusterFacts]:
    """Facts of a cluster, of the given hosts."""

    def make(*hosts: HostFacts) -> ClusterFacts:
        return ClusterFacts("", hosts, {}, {host.address: None for host in hosts if host.address != HEAD}, 1.0)

    return make
