"""Faults that one command on the worker makes, and one undoes."""

from tests.rig.fault import worker_fault
from tests.rig.laptop import IMAGE

RESTORE_BASHRC = "mv /root/.kept /root/.bashrc"

worker_fault(
    "wrong key",
    "ssh",
    "does not accept the key",
    "ssh-copy-id",
    make="mv /root/.ssh/authorized_keys /root/.ssh/elsewhere",
    undo="mv /root/.ssh/elsewhere /root/.ssh/authorized_keys",
)
worker_fault(
    "key only from here",
    "head to worker",
    "accepts the key from here, but not from the head",
    "from=",
    make="sed -i.bak 's/^/from=\"LAPTOP\" /' /root/.ssh/authorized_keys",
    undo="mv /root/.ssh/authorized_keys.bak /root/.ssh/authorized_keys",
)
worker_fault(
    "noisy .bashrc",
    "login shell",
    '~/.bashrc prints "Welcome to the GPU farm"',
    "bash -lic true",
    make="cp /root/.bashrc /root/.kept; echo 'echo Welcome to the GPU farm' >>/root/.bashrc",
    undo=RESTORE_BASHRC,
)
worker_fault(
    "noise before all else",
    "login shell",
    '~/.bashrc prints "Hello"',
    "bash -lic true",
    make="cp /root/.bashrc /root/.kept; sed -i '1i echo Hello' /root/.bashrc",
    undo=RESTORE_BASHRC,
)
worker_fault(
    "missing .bashrc",
    "login shell",
    "~/.bashrc is missing",
    "touch ~/.bashrc",
    make="mv /root/.bashrc /root/.kept",
    undo=RESTORE_BASHRC,
)
worker_fault(
    ".bashrc that exits",
    "login shell",
    "ends the shell with status 3",
    "bash -lixc true",
    make="cp /root/.bashrc /root/.kept; echo 'case $- in *i*) exit 3;; esac' >>/root/.bashrc",
    undo=RESTORE_BASHRC,
)
worker_fault(
    ".bashrc that ends every login",
    "ssh",
    "the login ends before it runs a command",
    "~/.bashrc",
    make="cp /root/.bashrc /root/.kept; sed -i '1i exit 3' /root/.bashrc",
    undo=RESTORE_BASHRC,
)
worker_fault(
    "unresolvable hostname",
    "hostname",
    "its own name mars does not resolve",
    "/etc/hosts",
    make="hostname mars",
    undo="hostname h2",
)
worker_fault(
    "docker missing",
    "docker",
    "docker is not installed",
    "apt-get install -y docker.io",
    make="mv /usr/bin/docker /usr/bin/kept",
    undo="mv /usr/bin/kept /usr/bin/docker",
)
worker_fault(
    "image missing",
    "image",
    f"image {IMAGE} is missing",
    f"docker pull {IMAGE}; or copy it: ssh -i ",
    make=f"docker tag {IMAGE} kept:1 && docker rmi {IMAGE}",
    undo=f"docker tag kept:1 {IMAGE} && docker rmi kept:1",
)
worker_fault(
    "different image on the two hosts",
    "image",
    "is a different image (",
    "docker save",
    make=f"docker tag {IMAGE} kept:1 && printf 'FROM kept:1\\nENV OTHER=1\\n' | docker build -t {IMAGE} -",
    undo=f"docker tag kept:1 {IMAGE} && docker rmi kept:1",
)
worker_fault(
    "stale container of an earlier run",
    "container",
    "a stale container raylaunch of an earlier run exists",
    "docker rm -f raylaunch",
    make=f"docker create --name raylaunch {IMAGE}",
    undo="docker rm -f raylaunch",
)
worker_fault(
    "a container without Ray",
    "container",
    "a container raylaunch is running, but has no Ray in it",
    "docker rm -f raylaunch",
    make=f"docker run -d --network host --name raylaunch {IMAGE} /bin/sleep 600",
    undo="docker rm -f raylaunch",
)
worker_fault(
    "/tmp full",
    "disk",
    "/tmp is over 95 % full",
    "du -xh --max-depth=1 /tmp",
    make="mount -t tmpfs -o size=16m tmpfs /tmp; ! cat /dev/zero >/tmp/full 2>/dev/null",
    undo="umount /tmp",
)
worker_fault(
    "one host with fewer GPUs",
    "GPUs",
    "7 x NVIDIA L4 22 GiB: 1 fewer than the other hosts' 8",
    "xid",
    make="echo COUNT=7 >/etc/rig-gpus",
    undo="rm /etc/rig-gpus",
)
worker_fault(
    "driver older than the image's CUDA",
    "driver",
    "driver 550.144.03 runs CUDA 12 at most",
    "apt-get install -y nvidia-driver-580-server && reboot; or, with this driver, docker.image",
    make="echo DRIVER=550.144.03 CUDA=12.4 >/etc/rig-gpus",
    undo="rm /etc/rig-gpus",
)
worker_fault(
    "driver not loaded",
    "GPUs",
    "nvidia-smi fails: NVIDIA-SMI has failed",
    "modprobe nvidia",
    make="echo COUNT= >/etc/rig-gpus",
    undo="rm /etc/rig-gpus",
)
worker_fault(
    "GPU memory held by a stranger",
    "GPU memory",
    "held by other programs: GPU 0: pid 4242 (python3) holds 20000 MiB",
    "kill 4242",
    make="echo HOLDER=4242 USED_MIB=20000 >/etc/rig-gpus",
    undo="rm /etc/rig-gpus",
)
worker_fault(
    ".bashrc that waits",
    "login shell",
    "~/.bashrc does not finish",
    "bash -lixc true",
    make="cp /root/.bashrc /root/.kept; echo 'case $- in *i*) sleep 60;; esac' >>/root/.bashrc",
    undo=RESTORE_BASHRC,
)
worker_fault(
    "login that hangs",
    "ssh",
    "the machine does not answer",
    "uptime",
    make="cp /root/.bashrc /root/.kept; sed -i '1i sleep 60' /root/.bashrc",
    undo=RESTORE_BASHRC,
)
