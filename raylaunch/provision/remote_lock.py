"""`raylaunch lock --cluster`: collected on the head, with the image that only its host sees."""

from raylaunch.config.cluster_file import ClusterFile
from raylaunch.config.launch import LaunchConfig
from raylaunch.provision.host_shell import HostShell
from raylaunch.provision.remote_launch import read_with_launch

_TIMEOUT_S = 120.0


def read_lock_text(cluster: ClusterFile, launch: LaunchConfig) -> str:
    """The lock file of a launch on a cluster, as text.

    Raises:
        ClusterError: the cluster is not up.
    """
    shell = HostShell.of(cluster)
    text = read_with_launch(cluster, launch, ["lock"], ["-o", "-"], timeout_s=_TIMEOUT_S)
    command = shell.runtime.inspect(cluster.container_name, "{{.Config.Image}} {{.Image}}")
    image = shell.run(cluster.head_ip, command).stdout.strip()
    return text.replace("\nimage: ''", f"\nimage: {image}") + ("" if text.endswith("\n") else "\n")
