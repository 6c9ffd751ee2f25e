"""A stand-in for vllm/vllm-openai on a rig's hosts: Debian packages, and this project's own Python packages.

Laid out as the official image is (system Python, packages beside it, the same entrypoint), with real Ray and real vLLM
for CPU. Made once per set of versions and kept, as docker's own folder, in .cache/rig: a rig's hosts share its files
by hard links, so that an image of 2 GB costs neither minutes nor memory for each of them.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

from raylaunch.provision.template import BASE_IMAGE
from tests.rig.rig import Rig, start_rig

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "rig"
LOGICAL_GPUS = 2
"""GPUs that Ray finds on each host (by its own override, RAY_OVERRIDE_RESOURCES): as many as its nvidia-smi lists."""
_PACKAGES = "python3,rsync,openssh-client,procps,iproute2,ca-certificates,libnuma1,libstdc++6,libgomp1,curl"
_LEFT_OUT = (
    *("mypy*", "*__mypyc*", "ruff*", "hypothesis*", "_hypothesis*", "pytest*", "_pytest", "__editable__*"),
    *(
        "raylaunch*",
        "nvidia",
        "triton*",
        "torch/include",
        "torch/test",
        "torch/bin/test_*",
        "torch/share",
        "torch/lib/*.a",
    ),
    *("ray/jars", "ray/rllib", "ray/cpp", "*.js.map"),
)
"""Tools, and what only other uses need."""
_LEFT_OUT_ANYWHERE = ("tests", "test", "*.pyi", "*.h", "*.cu", "*.cuh")
_IMAGE_SETTINGS = (
    'ENTRYPOINT ["vllm","serve"]',
    "WORKDIR /vllm-workspace",
    "ENV TORCHDYNAMO_DISABLE=1",  # vLLM compiles a function of each rank even when eager (0.32); no compiler is in here
    "ENV PIP_NO_BUILD_ISOLATION=0",  # a rig's hosts have no network: pip builds with the setuptools of the image
    f'ENV RAY_OVERRIDE_RESOURCES={{\\"GPU\\":{LOGICAL_GPUS}}}',
    "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
)
_SCRIPT = """#!/usr/bin/python3
import sys
from {module} import main
sys.exit(main())
"""


def find_suite() -> str:
    """The Debian or Ubuntu release of this machine: the image's Python has to be the one that made the packages."""
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    return release["VERSION_CODENAME"].strip('"')


def make_key() -> str:
    """What the image is made of, as a short hash."""
    site = Path(sysconfig.get_path("purelib"))
    packages = sorted(path.name for path in site.glob("*.dist-info") if not path.name.startswith("raylaunch"))
    made_by = Path(__file__).read_text()
    return hashlib.sha256("\n".join([find_suite(), sys.version, made_by, *packages]).encode()).hexdigest()[:12]


def make_base(folder: Path) -> Path:
    """Debian's part of the image, with its own package tools and documents left out."""
    sources = _run("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages")
    root = folder / "root"
    _run("debootstrap", "--variant=minbase", f"--include={_PACKAGES}", find_suite(), str(root), sources.split()[0])
    for left_out in ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale"):
        shutil.rmtree(root / left_out, ignore_errors=True)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert (root / f"usr/bin/python{version}").exists(), f"{find_suite()}'s Python is not this one, {version}"
    (root / f"usr/lib/python{version}/EXTERNALLY-MANAGED").unlink(missing_ok=True)
    for name, module in {"ray": "ray.scripts.scripts", "vllm": "vllm.entrypoints.cli.main"}.items():
        (root / "usr/local/bin" / name).write_text(_SCRIPT.format(module=module))
        (root / "usr/local/bin" / name).chmod(0o755)
    (root / "vllm-workspace").mkdir()
    return root


def add_packages(root: Path) -> None:
    """The Python packages of this environment, as hard links where the file system allows."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    site = Path(sysconfig.get_path("purelib"))
    left_out = [*(f"/{name}" for name in _LEFT_OUT), *(f"/vllm/{name}" for name in _find_unused_kernels())]
    excludes = [f"--exclude={name}" for name in (*left_out, *_LEFT_OUT_ANYWHERE)]
    target = root / f"usr/local/lib/python{version}/dist-packages"
    _run("rsync", "-a", f"--link-dest={site}", *excludes, f"{site}/", f"{target}/")


def make_docker_folder(folder: Path) -> None:
    """Docker's own folder with the image in it: made by a dockerd on a host of its own, and kept when that is gone."""
    root = make_base(folder)
    add_packages(root)
    pipe = folder / "image.tar"
    os.mkfifo(pipe)
    with start_rig(folder / "rig", hosts=1) as rig:
        pack = ["tar", "-C", str(root), "--numeric-owner", "--owner=0", "--group=0", "-cf", str(pipe), "."]
        with subprocess.Popen(pack) as packing:
            rig.head.import_image(pipe, BASE_IMAGE, *_IMAGE_SETTINGS)
        assert packing.returncode == 0
        rig.head.stop_docker()
        (rig.head.disk / "docker").rename(folder / "docker")
    pipe.unlink()
    shutil.rmtree(root)


def find_docker_folder() -> Path:
    """The folder, made where it is not there yet; others that wait for it get the same one."""
    CACHE.mkdir(parents=True, exist_ok=True)
    folder = CACHE / make_key()
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            making = CACHE / "making"
            shutil.rmtree(making, ignore_errors=True)
            making.mkdir()
            make_docker_folder(making)
            making.rename(folder)
    return folder / "docker"


@contextlib.contextmanager
def start_equipped_rig(name: str, *, hosts: int = 2, shared: tuple[Path, ...] = ()) -> Iterator[Rig]:
    """A rig whose hosts have this image and LOGICAL_GPUS GPUs each.

    Args:
        name: of the folder of their disks, which lies beside the image: its files are hard links.
    """
    docker_folder = find_docker_folder()
    with (
        tempfile.TemporaryDirectory(prefix=f"{name}-", dir=CACHE) as disks,
        start_rig(Path(disks) / "hosts", hosts, docker_folder=docker_folder, shared=shared) as rig,
    ):
        for host in rig.hosts:
            host.write("/etc/rig-gpus", f"COUNT={LOGICAL_GPUS}\n")
        yield rig


def _find_unused_kernels() -> list[str]:
    """vLLM's kernel libraries for other CPUs than this one: 100 to 200 MB each."""
    code = (
        "from vllm.platforms import current_platform as p; p.import_kernels();"
        "print(*{line.split()[-1].rpartition('/')[2] for line in open('/proc/self/maps') if '/vllm/_C' in line})"
    )
    used = _run(sys.executable, "-c", code).split()
    site = Path(sysconfig.get_path("purelib"))
    return [path.name for path in (site / "vllm").glob("_C*.so") if path.name not in used]


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, f"{command[0]}: {(done.stderr or done.stdout)[-2000:]}"
    return done.stdout
