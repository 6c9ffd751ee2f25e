"""ssh's messages as OpenSSH 7 to 10 print them, and its arguments."""

import subprocess
from pathlib import Path

import pytest

from raylaunch.config import cluster_file
from raylaunch.provision.doctor.access_rules import judge_access
from raylaunch.provision.doctor.gather import ClusterFacts
from raylaunch.provision.private_key import check_key
from raylaunch.provision.ssh import FAILURES, Ssh, read_failure

_HOST_CHANGED = """\
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
Offending ED25519 key in /home/mia/.ssh/known_hosts:3
Host key verification failed.
"""


@pytest.mark.parametrize(
    ("stderr", "kind"),
    [
        ("ssh: Could not resolve hostname gpu7: Name or service not known", "name"),
        ("ssh: connect to host 10.0.0.2 port 22: No route to host", "route"),
        ("ssh: connect to host 10.0.0.2 port 22: Connection timed out", "route"),
        ("Connection timed out during banner exchange", "route"),
        ("ssh: connect to host 10.0.0.2 port 22: Connection refused", "refused"),
        ("mia@10.0.0.2: Permission denied (publickey,password).", "key"),
        ("Received disconnect from 10.0.0.2 port 22:2: Too many authentication failures", "key"),
        ("No ED25519 host key is known for 10.0.0.2 and you have requested strict checking.\n"
         "Host key verification failed.", "host key"),
        (_HOST_CHANGED, "changed host key"),
        ("kex_exchange_identification: read: Connection reset by peer", "closed"),
        ("Load key \"/keys/id\": error in libcrypto\nmia@10.0.0.2: Permission denied (publickey).", "key file"),
        ("Permissions 0644 for '/keys/id' are too open.\nLoad key \"/keys/id\": bad permissions\nPermission denied "
         "(publickey).", "key file"),
        ("something new", "other"),
        ("", "other"),
    ],
)  # fmt: skip
def test_failures_are_distinguished(stderr: str, kind: str) -> None:
    failure = read_failure(stderr)
    assert failure.kind == kind
    assert kind in FAILURES
    assert "@@" not in failure.message


def test_arguments_never_prompt_and_trust_no_unknown_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """No prompt, no unknown host; HOME's known_hosts; the host is never taken for an option."""
    monkeypatch.setenv("HOME", "/home/mia")
    command = Ssh("mia", Path("/keys/id"), None, Path("/run/s")).command("10.0.0.2", "true")
    words = " ".join(command)
    assert "-o BatchMode=yes" in words
    assert "-o StrictHostKeyChecking=yes" in words
    assert "UserKnownHostsFile=/home/mia/.ssh/known_hosts" in words
    assert words.endswith("-- mia@10.0.0.2 true")
    assert "-o IdentitiesOnly=yes" in words
    assert "IdentitiesOnly" not in " ".join(Ssh("mia", None, None, Path("/run/s")).command("10.0.0.2"))


def test_a_connection_through_the_head_is_shared() -> None:
    """One socket for a host; it replaces the proxy of the cluster file."""
    ssh = Ssh("mia", Path("/keys/id"), "nc jump %h %p", Path("/run/s"))
    through, *_ = ssh.through("10.0.0.1")
    assert ssh.sharing("10.0.0.1")[0] in through
    arguments = ssh.command("10.0.0.2", "true", options=[through], only_key=True)
    assert sum("ProxyCommand" in word for word in arguments) == 1
    assert "IdentityAgent=none" in arguments
    assert "ProxyCommand=nc jump %h %p" in ssh.command("10.0.0.2")


def judge(key: Path, stderr: str = "") -> list[str]:
    """What doctor says of a key, or of a failure to reach gpu1."""
    cluster = cluster_file.parse(Path("c.yaml"), _CLUSTER.format(key=key))
    failures = {"gpu1": read_failure(stderr)} if stderr else {}
    facts = ClusterFacts(check_key(key), (), failures, {}, 0.0)
    return [f"{one.what} | {one.fix} | {one.safe}" for one in judge_access(facts, cluster) if one.fix]


_CLUSTER = """\
cluster_name: c
provider: {{type: local, head_ip: gpu1, worker_ips: []}}
auth: {{ssh_user: mia, ssh_private_key: {key}}}
docker: {{image: vllm/vllm-openai, container_name: c, run_options: [--gpus all]}}
"""


def test_what_is_no_private_key_keeps_its_permissions(tmp_path: Path) -> None:
    """A public key, another file, a folder: `--fix` must not change their mode, and nobody needs a new key."""
    key = tmp_path / "id"
    subprocess.run(["ssh-keygen", "-qt", "ed25519", "-N", "", "-f", str(key)], check=True)
    (tmp_path / "notes").write_text("hello")
    for name, words in (("id.pub", f"to the private key: {key}"), ("notes", "PEM format"), (".", "but a folder")):
        [said] = judge(tmp_path / name)
        assert words in said
        assert "chmod" not in said
        assert "ssh-keygen" not in said
        assert said.endswith("False")
    key.chmod(0o644)
    assert judge(key)[0].endswith(f"chmod 600 {key} | True")


@pytest.mark.parametrize(
    ("stderr", "words"),
    [
        (
            "ssh: Could not resolve hostname bastion: Name or service not known\nkex_exchange_identification: closed",
            "bastion, through which ~/.ssh/config or auth.ssh_proxy_command reaches it, does not resolve",
        ),
        ("ssh: Could not resolve hostname gpu1: Name or service not known", "its name does not resolve"),
        ("ssh: connect to host 127.0.0.1 port 2222: Connection refused", "no sshd listens on port 2222"),
        ("Host key verification failed.", "mia@gpu1 true` shows its fingerprint"),
    ],
)
def test_what_ssh_s_configuration_changes_is_named(tmp_path: Path, stderr: str, words: str) -> None:
    """Jump host and port of ~/.ssh/config, which ssh-keyscan does not read."""
    said = " ".join(judge(tmp_path / "id", stderr))
    assert words in said
    assert "keyscan" not in said
