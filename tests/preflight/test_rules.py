"""Each rule on facts that break it, and on facts that just do not."""

from dataclasses import replace

import pytest

from raylaunch.base.errors import ChecksFailedError
from raylaunch.node.companion import Companion, CompanionFacts, CompanionKind
from raylaunch.node.model_folder import FolderFacts, FolderFile, FolderProblem, ProblemKind
from raylaunch.node.nvml import DriverFacts, GpuProcess
from raylaunch.preflight.findings import Finding, raise_on_errors, show_findings
from raylaunch.preflight.gpu_rules import list_gpus
from raylaunch.preflight.run import judge

from .conftest import GIB, PATH, make_facts, make_gpu

MIB = 1 << 20


def only(findings: list[Finding]) -> Finding:
    """The one finding there is: a rule that reports too much fails here."""
    assert len(findings) == 1, findings
    return findings[0]


def test_healthy_nodes_have_no_findings(cluster, request_16):
    assert judge(cluster(), request_16) == []
    assert judge([], request_16) == []


@pytest.mark.parametrize(("version", "level"), [("3.12.10", "warning"), ("3.11.9", "error")])
def test_python_differs(cluster, request_16, version, level):
    found = only(judge(cluster(python=version), request_16))
    assert (found.node, found.level) == ("10.0.0.3", level)
    assert version in found.what
    assert "3.12.11 on 10.0.0.1, 10.0.0.2" in found.what


@pytest.mark.parametrize(
    ("package", "version", "name"),
    [("ray", "2.59.0", "Ray"), ("vllm", "0.31.0", "vLLM"), ("torch", "2.13.0+cpu", "PyTorch")],
)
def test_a_package_differs_from_the_majority(cluster, request_16, package, version, name):
    facts = cluster(packages={"ray": "2.60.0", "vllm": "0.32.0", "torch": "2.13.0+cu130", package: version})
    found = only(judge(facts, request_16))
    assert (found.node, found.level) == ("10.0.0.3", "error")
    assert found.what.startswith(f"{name} {version}, not ")
    assert f"pip install '{package}==" in found.fix


def test_of_two_nodes_that_differ_the_head_is_right(request_16):
    old = {"ray": "2.60.0", "vllm": "0.31.0", "torch": "2.13.0+cu130"}
    found = only(judge([make_facts(1), make_facts(2, packages=old)], request_16))
    assert found.node == "10.0.0.2"
    assert "vllm==0.32.0" in found.fix


def test_a_package_is_missing(cluster, request_16):
    found = only(judge(cluster(packages={"ray": "2.60.0", "torch": "2.13.0+cu130"}), request_16))
    assert "vLLM is not installed for Python 3.12.11" in found.what
    assert found.node == "10.0.0.3"


def test_a_package_is_missing_on_most_nodes(request_16):
    without = {"ray": "2.60.0", "torch": "2.13.0+cu130"}
    facts = [make_facts(1), make_facts(2, packages=without), make_facts(3, packages=without)]
    assert [found.node for found in judge(facts, request_16)] == ["10.0.0.2", "10.0.0.3"]


@pytest.mark.parametrize(
    ("version", "count"), [("0.24.9", 1), ("0.25.0", 0), ("0.33.1.dev3+g1", 0), ("0.34.0", 1), ("main", 0)]
)
def test_vllm_is_supported(request_16, version, count):
    facts = make_facts(packages={"ray": "2.60.0", "vllm": version, "torch": "2.13.0+cu130"})
    assert len(judge([facts], request_16)) == count


def test_vllm_host_ip_is_not_rays(cluster, request_16):
    facts = cluster(environment={"VLLM_HOST_IP": "192.168.1.3"}, vllm_ip="192.168.1.3")
    found = only(judge(facts, request_16))
    assert found.level == "error"
    assert "VLLM_HOST_IP is 192.168.1.3, but Ray knows this node as 10.0.0.3" in found.what
    assert "VLLM_HOST_IP=10.0.0.3" in found.fix


@pytest.mark.parametrize(
    ("taken", "level"), [("10.0.0.3", None), ("172.17.0.2", "warning"), ("0.0.0.0", "error"), ("127.0.1.1", "error")]
)
def test_vllm_host_ip_is_not_set(cluster, request_16, taken, level):
    findings = judge(cluster(environment={}, vllm_ip=taken), request_16)
    assert [found.level for found in findings] == ([level] if level else [])
    assert all("VLLM_HOST_IP=10.0.0.3" in found.fix for found in findings)


def test_on_one_machine_loopback_reaches_all(request_16):
    loopback = {"machine": "same", "environment": {"VLLM_HOST_IP": "127.0.0.1"}, "vllm_ip": "127.0.0.1"}
    assert judge([make_facts(1, **loopback), make_facts(2, **loopback)], request_16) == []
    elsewhere = {"environment": {"VLLM_HOST_IP": "127.0.0.1"}, "vllm_ip": "127.0.0.1"}
    assert only(judge([make_facts(1), make_facts(2, **elsewhere)], request_16)).node == "10.0.0.2"


def test_the_model_is_missing_on_a_node(cluster, request_16):
    found = only(judge(cluster(model=FolderFacts(PATH)), request_16))
    assert found.what == f"model folder {PATH} does not exist"
    assert found.fix == "raylaunch weights pull LAUNCH.yaml (it comes from 10.0.0.1)"


def test_the_model_is_missing_everywhere(request_16):
    findings = judge([make_facts(number, model=FolderFacts(PATH)) for number in (1, 2)], request_16)
    assert [found.fix for found in findings] == [
        "raylaunch weights pull LAUNCH.yaml (once from the hub, then from node to node)"
    ] * 2


def test_the_model_may_not_be_read(cluster, request_16):
    found = only(
        judge(
            cluster(
                model=FolderFacts(
                    PATH, True, FolderProblem(ProblemKind.DENIED, "", "cannot be read: Permission denied")
                )
            ),
            request_16,
        )
    )
    assert found.fix == f"on 10.0.0.3: chmod -R a+rX {PATH}"


def test_the_model_is_broken(cluster, request_16):
    broken = tuple(FolderProblem(ProblemKind.DAMAGED, name, f"{name} is cut short") for name in "abcd")
    found = only(judge(cluster(model=replace(make_facts().model, broken=broken)), request_16))
    assert "a is cut short; b is cut short; c is cut short; and 1 more" in found.what


def test_an_lfs_pointer_is_pulled_by_git(cluster, request_16):
    broken = (FolderProblem(ProblemKind.LFS_POINTER, "tokenizer.json", "tokenizer.json is a git-lfs pointer"),)
    found = only(judge(cluster(model=replace(make_facts().model, broken=broken)), request_16))
    assert found.fix == f"on 10.0.0.3: git -C {PATH} lfs pull"


def test_a_launch_without_a_repo_has_nothing_to_pull(cluster, request_16):
    found = only(judge(cluster(model=FolderFacts(PATH)), replace(request_16, repo=None)))
    assert found.fix.startswith(f"on 10.0.0.3: rsync -a -s 10.0.0.1:{PATH}/ {PATH}/")


def test_a_model_without_weights_or_tokenizer(cluster, request_16):
    bare = replace(make_facts().model, has_weights=False, has_tokenizer=False)
    assert ["no weights" in f.what or "no tokenizer" in f.what for f in judge(cluster(model=bare), request_16)] == [
        True,
        True,
    ]
    relaxed = replace(request_16, needs_weights=False, needs_tokenizer=False)
    assert judge(cluster(model=bare), relaxed) == []


def test_random_weights_need_a_config_only(cluster, request_16):
    dummy = replace(request_16, needs_weights=False)
    cut = replace(make_facts().model, broken=(FolderProblem(ProblemKind.DAMAGED, "model.safetensors", "is cut short"),))
    assert judge(cluster(model=cut), dummy) == []
    bad = replace(
        make_facts().model, broken=(FolderProblem(ProblemKind.MISSING, "config.json", "config.json is missing"),)
    )
    assert "config.json is missing" in only(judge(cluster(model=bad), dummy)).what


def test_complete_folders_that_differ(cluster, request_16):
    files = (
        FolderFile("config.json", 700, "other"),
        FolderFile("extra.json", 1, "e"),
        FolderFile("model-00001-of-00002.safetensors", 4 * GIB + 1),
        FolderFile("model-00002-of-00002.safetensors", 3 * GIB),
    )
    found = only(judge(cluster(model=replace(make_facts().model, files=files)), request_16))
    assert found.node == "10.0.0.3"
    assert "differs from that of 10.0.0.1: config.json has other content; extra.json is only here; " in found.what
    assert "model-00001-of-00002.safetensors has 4,294,967,297 bytes, not 4,294,967,296" in found.what
    assert found.what.endswith("and 1 more")


@pytest.mark.parametrize(("free", "level"), [(64 * MIB, "error"), (512 * MIB, "warning"), (GIB, None)])
def test_shared_memory(cluster, request_16, free, level):
    findings = judge(cluster(shm_total=free, shm_free=free), request_16)
    assert [found.level for found in findings] == ([level] if level else [])
    assert all("--shm-size 10.24g" in found.fix for found in findings)
    alone = replace(request_16, tensor_parallel_size=1, pipeline_parallel_size=1)
    assert judge(cluster(shm_total=free, shm_free=free), alone) == []


@pytest.mark.parametrize(("limit", "count"), [(65535, 1), (65536, 0)])
def test_open_files(cluster, request_16, limit, count):
    findings = judge(cluster(open_files_soft=limit), request_16)
    assert [found.level for found in findings] == ["warning"] * count
    logical = replace(request_16, logical_gpus=True)
    assert judge(cluster(open_files_soft=4096), logical) == []
    assert len(judge(cluster(open_files_soft=4095), logical)) == 1


@pytest.mark.parametrize(("free", "count"), [(GIB - 1, 1), (GIB, 0), (None, 0)])
def test_disk(cluster, request_16, free, count):
    assert len(judge(cluster(disk_free=free), request_16)) == count


@pytest.mark.parametrize(("available", "count"), [(16 * GIB - 1, 1), (16 * GIB, 0)])
def test_host_memory_for_eight_workers(request_16, available, count):
    findings = judge([make_facts(1), make_facts(2, ram_available=available)], request_16)
    assert [found.level for found in findings] == ["warning"] * count


def test_host_memory_of_one_machine_is_shared_by_its_nodes(request_16):
    logical = replace(request_16, logical_gpus=True)
    both = [make_facts(number, machine="same", ram_available=6 * GIB) for number in (1, 2)]
    assert "16 workers" in only(judge(both, logical)).what
    apart = [make_facts(number, ram_available=6 * GIB) for number in (1, 2)]
    assert judge(apart, logical) == []


def with_driver(**changes):
    return {"driver": replace(make_facts().driver, **changes)}


@pytest.mark.parametrize(
    ("error", "word"),
    [
        ("Driver/library version mismatch", "reboot"),
        ("Unknown Error", "restart the container"),
        ("NVML Shared Library Not Found", "--gpus all"),
        ("something new", "nvidia-smi"),
    ],
)
def test_nvml_does_not_answer(cluster, request_16, error, word):
    found = only(judge(cluster(driver=DriverFacts(error)), request_16))
    assert error in found.what
    assert word in found.fix


def test_gpus_are_missing(cluster, request_16):
    found = only(judge(cluster(**with_driver(gpus=tuple(make_gpu(i) for i in range(7)))), request_16))
    assert found.what == "Ray has 8 GPUs registered, the driver shows 7"


def test_a_gpu_does_not_answer(cluster, request_16):
    gpus = (*(make_gpu(i) for i in range(7)), make_gpu(7, error="GPU is lost"))
    found = only(judge(cluster(**with_driver(gpus=gpus)), request_16))
    assert found.what == "GPU 7 does not answer: GPU is lost"


def test_a_driver_older_than_pytorchs_cuda(cluster, request_16):
    found = only(judge(cluster(**with_driver(driver_version="550.144.03", cuda_version=(12, 4))), request_16))
    assert found.level == "error"
    assert "driver 550.144.03 supports CUDA up to 12.4" in found.what
    assert "580 or newer" in found.fix


@pytest.mark.parametrize(
    ("torch_cuda", "driver_cuda"),
    [("12.8", (12, 4)), ("13.0", (13, 1)), ("12.8", (13, 0)), ("13.2", (13, 0))],
)
def test_a_driver_of_the_same_cuda_major_will_do(request_16, torch_cuda, driver_cuda):
    assert judge([make_facts(torch_cuda=torch_cuda, **with_driver(cuda_version=driver_cuda))], request_16) == []


def test_pytorch_without_cuda_on_gpus(request_16):
    assert "built without CUDA" in only(judge([make_facts(torch_cuda=None)], request_16)).what


def test_a_stranger_holds_most_of_a_gpu(cluster, request_16):
    stranger = GpuProcess(4711, "python3", 20 * GIB)
    gpu = make_gpu(0, used_bytes=20 * GIB, free_bytes=4 * GIB, processes=(stranger,))
    found = only(judge(cluster(**with_driver(gpus=(gpu, *(make_gpu(i) for i in range(1, 8))))), request_16))
    assert (found.node, found.level) == ("10.0.0.3", "error")
    assert "pid 4711 (python3) holds 20,480 MiB" in found.what
    assert "vLLM wants 22.1 GiB of 24.0, 4.0 are free" in found.what
    assert "kill 4711" in found.fix


def test_a_stranger_holds_little(cluster, request_16):
    gpu = make_gpu(0, processes=(GpuProcess(4711, "Xorg", None),))
    found = only(judge(cluster(**with_driver(gpus=(gpu, *(make_gpu(i) for i in range(1, 8))))), request_16))
    assert found.level == "warning"
    assert "holds memory" in found.what


def test_memory_is_held_by_processes_that_cannot_be_seen(cluster, request_16):
    gpu = make_gpu(0, used_bytes=9 * GIB, free_bytes=15 * GIB)
    found = only(judge(cluster(**with_driver(gpus=(gpu, *(make_gpu(i) for i in range(1, 8))))), request_16))
    assert "9,216 MiB of GPU 0 are held by processes outside this container" in found.what


def test_cards_differ(cluster, request_16):
    other = tuple(make_gpu(i, name="NVIDIA GeForce RTX 3090") for i in range(8))
    found = only(judge(cluster(**with_driver(gpus=other)), request_16))
    assert (found.node, found.level) == ("10.0.0.3", "warning")
    mixed = (make_gpu(0, name="NVIDIA L4"), *(make_gpu(i) for i in range(1, 8)))
    assert "its GPUs differ" in judge([make_facts(**with_driver(gpus=mixed))], request_16)[0].what


def with_others_on(taken, **changes):
    """A box whose GPUs `taken` are full of another team's processes, two of them of another kind."""
    stranger = GpuProcess(77, "python3", 22 * GIB)
    busy = {"free_bytes": 2 * GIB, "used_bytes": 22 * GIB, "processes": (stranger,), "name": "NVIDIA L4"}
    gpus = tuple(make_gpu(i, **(busy if i in taken else {})) for i in range(8))
    return make_facts(driver=replace(make_facts().driver, gpus=gpus), **changes)


@pytest.mark.parametrize(
    ("visible", "taken"),
    [
        ("4,5,6,7", range(4)),
        ("GPU-4,GPU-5,GPU-6,GPU-7", range(4)),
        ("0,2,4,6", (1, 3, 5, 7)),
        (None, range(4, 8)),
        ("7,6,5,4,0", range(4)),
    ],
)
def test_gpus_that_ray_was_not_given_are_not_judged(request_16, visible, taken):
    """By CUDA_VISIBLE_DEVICES, and the rest of a box whose Ray was started with --num-gpus=4."""
    half = replace(request_16, gpus_per_node=4, pipeline_parallel_size=1)
    node = with_others_on(
        taken, environment={"VLLM_HOST_IP": "10.0.0.1"} | ({"CUDA_VISIBLE_DEVICES": visible} if visible else {})
    )
    assert judge([node], half) == []


def test_only_reserved_gpus_are_judged(request_16):
    """Another service of the same Ray has the rest of the box."""
    half = replace(request_16, gpus_per_node=4, pipeline_parallel_size=1)
    node = with_others_on(range(4))
    assert len([found for found in judge([node], half) if "kill 77" in found.fix]) == 4
    assert judge([node], replace(half, reserved_gpus={"10.0.0.1": ("4", "5", "6", "7")})) == []
    by_uuid = replace(half, reserved_gpus={"10.0.0.1": ("GPU-7", "GPU-6", "GPU-5", "GPU-4")})
    assert judge([node], by_uuid) == []
    assert [gpu.index for gpu in list_gpus(node, by_uuid)] == [7, 6, 5, 4]


def test_a_gpu_of_ours_is_still_judged(request_16):
    half = replace(request_16, gpus_per_node=4, pipeline_parallel_size=1)
    environment = {"VLLM_HOST_IP": "10.0.0.1", "CUDA_VISIBLE_DEVICES": "4,5,6,7"}
    node = with_others_on((4,), environment=environment)
    assert [found.what.partition(" is used")[0] for found in judge([node], half) if found.level == "error"] == ["GPU 4"]


@pytest.mark.parametrize(
    ("visible", "text"),
    [("", "names 0 of the driver's 8"), ("6,7,8", "names 2 of the driver's 8; the driver shows no 8")],
)
def test_ray_has_more_gpus_than_it_may_use(request_16, visible, text):
    environment = {"VLLM_HOST_IP": "10.0.0.1", "CUDA_VISIBLE_DEVICES": visible}
    found = only(judge([make_facts(environment=environment)], request_16))
    assert text in found.what
    assert "CUDA_VISIBLE_DEVICES" in found.fix


def test_a_node_without_nvidia_ml_py(request_16):
    found = only(judge([make_facts(driver=DriverFacts("any text", lacks_binding=True))], request_16))
    assert found.fix == "on that node: pip install nvidia-ml-py"


def test_logical_gpus_are_not_judged(request_16):
    facts = make_facts(torch_cuda=None, driver=DriverFacts("Driver Not Loaded"))
    assert judge([facts], replace(request_16, logical_gpus=True)) == []


def test_all_findings_are_reported_at_once(request_16):
    worst = make_facts(2, python="3.11.1", model=FolderFacts(PATH), shm_free=0, open_files_soft=1024, vllm_ip="0.0.0.0")
    findings = judge([make_facts(1), worst], request_16)
    assert len(findings) == 5
    assert {found.node for found in findings} == {"10.0.0.2"}


def test_the_table_has_errors_first(capfd: pytest.CaptureFixture[str]):
    show_findings([Finding("a", "slow", "wait", "warning"), Finding("b", "broken", "fix it")])
    rows = [line.split() for line in capfd.readouterr().err.splitlines()]
    assert rows[1:] == [["b", "broken", "fix", "it"], ["a", "warning:", "slow", "wait"]]
    show_findings([])
    assert capfd.readouterr().err == ""


def test_only_errors_stop_a_launch():
    raise_on_errors([])
    raise_on_errors([Finding("a", "slow", "wait", "warning")])
    with pytest.raises(ChecksFailedError) as caught:
        raise_on_errors(
            [
                Finding("a", "slow", "wait", "warning"),
                Finding("b", "broken", "fix it"),
                Finding("c", "x", "y"),
            ]
        )
    assert caught.value.what == "2 checks failed on b, c; the first, on b: broken"
    assert caught.value.fix == "fix it"


def test_companions_on_every_node(cluster, request_16):
    """An id: the pull command, unless the hub cache of every node has it; a folder: copy it."""
    draft = Companion("engine.speculative_config.model", CompanionKind.DRAFT, "/data/some--draft", "some/draft")
    asked = replace(request_16, companions=(draft,))
    there, cached = CompanionFacts(draft, True), CompanionFacts(draft, False, "/data/some--draft does not exist", True)
    nodes = [replace(node, companions=(there,)) for node in cluster()]
    assert judge(nodes, asked) == []
    assert judge([replace(node, companions=(cached,)) for node in nodes], asked) == []
    nodes[1] = replace(nodes[1], companions=(cached,))
    found = only(judge(nodes, asked))
    assert (found.node, found.fix) == ("10.0.0.2", asked.pull_command)
    assert "engine.speculative_config.model (draft model some/draft): /data/some--draft does not exist" in found.what
    lora = Companion("server.lora_modules.0.path", CompanionKind.ADAPTER, "/data/lora")
    nodes[1] = replace(nodes[1], companions=(CompanionFacts(lora, True, "/data/lora: adapter_config.json is missing"),))
    found = only(judge(nodes, replace(request_16, companions=(lora,))))
    assert "adapter_config.json is missing" in found.what
    assert "rsync -a" in found.fix
