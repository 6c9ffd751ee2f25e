"""The laptop of a rig: a home of its own, with the rig's key and known hosts, and what a user types there."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from raylaunch.provision.template import LAYER_IMAGE, ClusterPlan, write
from tests.rig.host import Host
from tests.rig.rig import Rig
from tests.rig.typed import Typed, type_line

BIN = Path(sys.executable).parent
CONTAINER = "raylaunch"


@dataclass(frozen=True)
class Owner:
    """Where `raylaunch up` is typed."""

    rig: Rig
    home: Path
    cluster_file: Path
    name: str
    """The cluster's."""
    transcript: Path
    """All that was typed, and what came."""
    typed: list[Typed] = field(default_factory=list)

    @classmethod
    def of(cls, rig: Rig, folder: Path, name: str = "rig") -> "Owner":
        """A laptop with a cluster file for the rig's hosts."""
        home = folder / "home"
        rig.write_known_hosts(home / ".ssh" / "known_hosts")
        file = folder / "cluster.yaml"
        hosts = [host.address for host in rig.hosts]
        write(ClusterPlan(hosts=hosts, user="root", key=str(rig.key), name=name), file)
        return cls(rig, home, file, name, folder / "transcript.txt")

    @property
    def environ(self) -> dict[str, str]:
        """Of every command typed here: raylaunch keeps all of its own in the laptop's home."""
        return os.environ | {"HOME": str(self.home), "RAYLAUNCH_HOME": str(self.home / ".raylaunch")}

    def start(self, *words: str, output: Path) -> "tuple[subprocess.Popen[bytes], Path]":
        """Start `raylaunch ...`; the process, and the file of its output."""
        with output.open("wb") as printed:
            process = subprocess.Popen(
                [BIN / "raylaunch", *words], stdin=subprocess.DEVNULL, stdout=printed, stderr=subprocess.STDOUT,
                env=self.environ, start_new_session=True,
            )  # fmt: skip
        return process, output

    def run(
        self, *words: str, program: str = "raylaunch", timeout_s: float = 300.0
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command to its end and return it, whatever its status."""
        return subprocess.run(
            [BIN / program, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, env=self.environ,
            timeout=timeout_s, check=False,
        )  # fmt: skip

    def type(self, line: str, *, interrupt_at: str = "", deadline_s: float = 300.0) -> Typed:
        """Type a line beside the cluster file, at 80 columns."""
        environ = self.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"}
        folder = self.cluster_file.parent
        typed = type_line(line, environ=environ, folder=folder, interrupt_at=interrupt_at, deadline_s=deadline_s)
        with self.transcript.open("a") as transcript:
            transcript.write(str(typed))
        self.typed.append(typed)
        return typed

    def must(
        self, *words: str, program: str = "raylaunch", timeout_s: float = 300.0
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command that has to succeed."""
        done = self.run(*words, program=program, timeout_s=timeout_s)
        assert done.returncode == 0, f"{program} {' '.join(words)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def up(self, *words: str) -> "subprocess.CompletedProcess[str]":
        return self.must("up", str(self.cluster_file), *words)

    def down(self) -> "subprocess.CompletedProcess[str]":
        return self.must("down", str(self.cluster_file))

    def in_head(self, code: str) -> str:
        """Run Python in the head's container, joined to Ray, and return what it prints."""
        script = f"import ray\nray.init(address='auto', log_to_driver=False, logging_level='ERROR')\n{code}"
        self.rig.head.write("/tmp/look.py", script)
        return self.rig.head.run(f"docker exec -i {CONTAINER} python3 - </tmp/look.py", timeout_s=120).stdout

    def count_gpus(self) -> dict[str, int]:
        """Address -> GPUs of every living node, as Ray on the head reports."""
        printed = self.in_head(
            "print({n['NodeManagerAddress']: int(n['Resources'].get('GPU', 0)) for n in ray.nodes() if n['Alive']})"
        )
        return dict(eval(printed))

    def list_ray_states(self) -> list[Path]:
        """Where plain `ray` finds the cluster."""
        return [*Path("/tmp/ray").glob(f"cluster-{self.name}.*")]

    def list_traces(self) -> list[str]:
        """What of a cluster is on hosts and laptop: containers, volumes, processes, mount folders, keys, Ray's state.

        Folders of this machine that the hosts share are left out: a clone under /tmp has keys of its own.
        """
        found = []
        shared = tuple(f"{folder}/" for folder in self.rig.shared)
        for host in self.rig.hosts:
            look = (
                "docker ps -aq | sed 's/^/container /'; docker volume ls -q | sed 's/^/volume /';"
                "ls -d /tmp/ray_tmp_mount/* 2>/dev/null;"
                "ps ax -o comm= | grep -E '^(raylet|gcs_server|ray::)';"
                "grep -rl 'PRIVATE KEY' /tmp /root/ray* 2>/dev/null"
            )
            lines = host.run(look, check=False).stdout.splitlines()
            found += [f"{host.name}: {line}" for line in lines if not line.startswith(shared)]
        found += [str(path) for path in self.home.glob(".raylaunch/clusters/*/ray")]
        found += map(str, self.list_ray_states())
        return found + [str(path) for path in self.home.glob(".raylaunch/clusters/*/keys")]


def wait_for_line(output: Path, process: "subprocess.Popen[bytes]", text: str, deadline_s: float = 120.0) -> None:
    """Wait until a started command has written `text`.

    Raises:
        AssertionError: it ended before, or did not in time.
    """
    until = time.monotonic() + deadline_s
    while text not in output.read_text(errors="replace"):
        assert process.poll() is None, f"ended with {process.returncode}:\n{output.read_text(errors='replace')}"
        assert time.monotonic() < until, f"no {text!r} within {deadline_s} s:\n{output.read_text(errors='replace')}"
        time.sleep(0.1)


def find_image(host: Host) -> str:
    """The id of the image that the cluster's container runs, or of the one that has its name where none is."""
    return host.run(
        f"docker inspect --type container -f '{{{{.Image}}}}' {CONTAINER} 2>/dev/null ||"
        f"docker image inspect -f '{{{{.Id}}}}' {LAYER_IMAGE}"
    ).stdout.strip()


def bring_out_of_step(laptop: Owner) -> Path:
    """Save the head's image to a file of the laptop's, and take the worker's away."""
    head, worker = laptop.rig.hosts
    head.run(f"docker save {LAYER_IMAGE} >/tmp/image.tar", timeout_s=300)
    worker.run(f"docker rmi {LAYER_IMAGE}")
    return head.disk / "tmp" / "image.tar"
