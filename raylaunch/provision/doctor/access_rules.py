"""Can Ray's launcher get in everywhere: key, ssh, login shell, names, sudo, and from the head to the workers."""

from collections.abc import Iterator
from pathlib import Path

from raylaunch.base.text import printable
from raylaunch.config.cluster_file import ClusterFile
from raylaunch.provision.doctor.gather import SSH_PORT, HostFacts, Look, is_address
from raylaunch.provision.doctor.verdicts import HERE, Verdict, ok, red, unknown, warn
from raylaunch.provision.ssh import SshFailure

_SLOW_NAME_MS = 2000


def judge_access(seen: Look, cluster: ClusterFile) -> Iterator[Verdict]:
    """Verdicts on everything that comes before docker."""
    yield from _judge_key(seen.key_problem, cluster)
    for host, failure in seen.failures.items():
        yield _judge_failure(host, failure, cluster)
        yield unknown("all other checks", host, "it could not be reached by ssh")
    for host in sorted({*cluster.hosts} - {*seen.failures} - {facts.address for facts in seen.hosts}):
        yield unknown("all other checks", host, "there is no key to reach it with")
    for facts in seen.hosts:
        yield ok("ssh", facts.address, f"{facts.system.user} is in ({facts.system.distribution})")
        yield _judge_shell(facts)
        yield _judge_name(facts, cluster)
        yield _judge_sudo(facts)
    yield from _judge_from_head(seen, cluster)


def _judge_key(problem: str, cluster: ClusterFile) -> Iterator[Verdict]:
    key = cluster.ssh_private_key
    if key is None:
        if cluster.worker_ips:
            yield red(
                "key",
                HERE,
                "auth.ssh_private_key is not said: the head would have no key for the workers",
                f"add it in {cluster.path.name}, under auth: (example: ssh_private_key: ~/.ssh/id_ed25519)",
            )
        return
    copy = f"ssh-copy-id -i {key}.pub {cluster.ssh_user}@{cluster.head_ip}"
    words = {
        "missing": (
            f"{key} is not there",
            f"name your key in {cluster.path.name}, auth.ssh_private_key; or make one: ssh-keygen -t ed25519 -f {key} "
            f"&& {copy} (and to each worker)",
        ),
        "open": (f"others on this machine may read {key}: ssh refuses such a key", f"chmod 600 {key}"),
        "passphrase": (
            f"{key} asks for a passphrase, which nobody types on the head when it starts the workers",
            "use a key without one: ssh-keygen -t ed25519 -N '' -f ~/.ssh/raylaunch, ssh-copy-id it to every host, and "
            "name it as auth.ssh_private_key",
        ),
        "broken": (f"{key} is no private key that ssh can read", f"ssh-keygen -y -f {key} must print its public key"),
    }
    if problem in words:
        what, fix = words[problem]
        yield red("key", HERE, what, fix, mend=fix if problem == "open" else "")
    else:
        yield ok("key", HERE, f"{key} opens without a passphrase")


def _judge_failure(host: str, failure: SshFailure, cluster: ClusterFile) -> Verdict:
    user, key = cluster.ssh_user, cluster.ssh_private_key
    option = f" -i {key}.pub" if key else ""
    compare = f"ssh-keyscan {host} 2>/dev/null | ssh-keygen -lf -"
    known = Path("~/.ssh/known_hosts")
    words = {
        "name": (
            "its name does not resolve on this machine",
            f"write its address into {cluster.path.name} instead (`getent hosts {host}` must answer)",
        ),
        "route": (
            "nothing answers at that address: the machine is off, in another network, or behind a firewall",
            f"ping -c 3 {host}; on the machine's own console, `ip -br addr` shows its addresses",
        ),
        "refused": (
            f"the machine is up, but no sshd listens on port {SSH_PORT}",
            "on its own console: sudo systemctl enable --now ssh (Debian, Ubuntu) or sshd (others)",
        ),
        "key": (
            f"it does not take {'the key ' + str(key) if key else 'any of your keys'} for user {user}",
            f"ssh-copy-id{option} {user}@{host} (or correct auth.ssh_user)",
        ),
        "key file": ("ssh cannot use the private key", f"chmod 600 {key}; ssh-keygen -y -f {key}"),
        "host key": (
            "its host key is not known here, and `ray up` would send it your private key unseen",
            f"compare `{compare}` with `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` on its console; where they "
            f"are the same: ssh-keyscan {host} >> {known}",
        ),
        "changed host key": (
            "its host key is another one than before: it was installed anew, or somebody sits between",
            f"if it was installed anew: ssh-keygen -R {host} && ssh-keyscan {host} >> {known}",
        ),
        "closed": (
            "sshd hangs up before the login: it is overloaded, still starting, or bars this machine",
            "on its own console: sudo journalctl -u ssh -u sshd -n 20 (fail2ban, hosts.deny, MaxStartups)",
        ),
        "slow": (
            "the login stands, but the machine does not answer: overloaded, or a disk or name service hangs",
            f"ssh {user}@{host} uptime; on its own console: dmesg -T | tail",
        ),
        "shell": (
            "the login ends before it runs a command: its start-up files exit, or its shell is not one",
            f"ssh {user}@{host} true must be silent and end with status 0; look for exit and exec in ~/.bashrc",
        ),
    }
    what, fix = words.get(failure.kind, ("ssh fails", f"ssh -v {user}@{host} true shows more"))
    return red("ssh", host, f"{what} (ssh: {printable(failure.said)})", fix)


def _judge_shell(facts: HostFacts) -> Verdict:
    host, shell = facts.address, facts.shell
    if not facts.system.has_bashrc:
        return red(
            "login shell",
            host,
            "~/.bashrc is missing, and every command of Ray's launcher begins with it",
            "touch ~/.bashrc",
            mend="touch ~/.bashrc",
        )
    if shell.timed_out:
        return red(
            "login shell",
            host,
            "~/.bashrc does not come to an end: it waits for something, or asks",
            "on that host: bash -lixc true 2>&1 | tail shows where it stands",
        )
    noise = facts.noise.strip() or shell.text.removesuffix("RAN").strip()
    if noise:
        return red(
            "login shell",
            host,
            f'~/.bashrc prints "{printable(noise.splitlines()[0])}", which Ray\'s launcher takes for an answer',
            "take what prints out of ~/.bashrc there (bash -lic true must print nothing), also where it is only called",
        )
    if shell.status != 0:
        return red(
            "login shell",
            host,
            f"~/.bashrc ends the shell with status {shell.status} before a command runs",
            "on that host: bash -lixc true 2>&1 | tail shows where; take exit and `set -e` out of ~/.bashrc",
        )
    return ok("login shell", host, "silent")


def _judge_name(facts: HostFacts, cluster: ClusterFile) -> Verdict:
    host, name, section = facts.address, facts.system.hostname, facts.name
    words = section.text.split()
    took = next((word.removeprefix("ms=") for word in words if word.startswith("ms=")), "")
    line = f"{host if is_address(host) else 'ADDRESS'} {name}"
    command = f'echo "{line}" | {facts.system.sudo}tee -a /etc/hosts'
    if section.status != 0:
        return red(
            "hostname",
            host,
            f"its own name {name} does not resolve there: Ray waits 10 s at each look-up",
            command,
            mend=command if is_address(host) else "",
        )
    if took.isdigit() and int(took) > _SLOW_NAME_MS:
        return warn("hostname", host, f"its own name {name} takes {int(took) / 1000:.0f} s to resolve there", command)
    address = words[0] if words else ""
    if address.startswith("127.") and cluster.find_variable("GLOO_SOCKET_IFNAME") is None:
        return warn(
            "hostname",
            host,
            f"its own name {name} resolves to {address}: Gloo would listen where no other host reaches it",
            "add `-e GLOO_SOCKET_IFNAME=...` to docker.run_options (configs/two-node.yaml works it out on each host)",
        )
    return ok("hostname", host, "resolves")


def _judge_sudo(facts: HostFacts) -> Verdict:
    if facts.system.user == "root":
        return ok("sudo", facts.address, "not needed: the user is root")
    if facts.sudo.status == 0:
        return ok("sudo", facts.address, "without a password")
    return warn(
        "sudo",
        facts.address,
        f"{facts.system.user} has no sudo without a password: what needs it is left to you, on that host",
        f"echo '{facts.system.user} ALL=(ALL) NOPASSWD: ALL' | sudo tee /etc/sudoers.d/{facts.system.user} (or live "
        "with it)",
    )


def _judge_from_head(seen: Look, cluster: ClusterFile) -> Iterator[Verdict]:
    head = next((facts for facts in seen.hosts if facts.address == cluster.head_ip), None)
    reached = {facts.address for facts in seen.hosts}
    for worker in cluster.worker_ips:
        if worker not in reached:
            continue
        if head is None or worker not in seen.from_head:
            yield unknown("head to worker", worker, "the head could not be reached, or there is no key to hand to it")
            continue
        failure = seen.from_head[worker]
        knock = head.network.reached.get(worker, {}).get(SSH_PORT) if head.network else None
        if failure is None:
            yield ok("head to worker", worker, "the head gets in with the key that `ray up` hands over")
        elif failure.kind == "key":
            yield red(
                "head to worker",
                worker,
                "it takes the key from here, but not from the head",
                f'look for from="..." in its ~/.ssh/authorized_keys and for Match and AllowUsers in its sshd_config; '
                f"{cluster.head_ip} must be let in",
            )
        elif knock == "open":
            yield unknown(
                "head to worker",
                worker,
                f"the head's sshd carries no connection on for us (ssh: {printable(failure.said)})",
                f"on {cluster.head_ip}, sshd_config: AllowTcpForwarding yes, then doctor can look",
            )
        else:
            yield red(
                "head to worker",
                worker,
                f"the head does not reach its sshd ({knock or printable(failure.said)})",
                f"on {worker}: let {cluster.head_ip} through to port {SSH_PORT}",
            )
