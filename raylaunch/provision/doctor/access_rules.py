"""Can Ray's launcher log in everywhere: key, ssh, login shell, names, sudo, and from the head to the workers."""

import re
import shlex
from collections.abc import Iterator

from raylaunch.base.addresses import is_address
from raylaunch.base.text import printable
from raylaunch.config.cluster_file import ClusterFile
from raylaunch.config.defaults import SSH_KEY
from raylaunch.provision.doctor.gather import SSH_PORT, ClusterFacts, HostFacts
from raylaunch.provision.doctor.verdicts import HERE, Check, Verdict
from raylaunch.provision.ssh import SshFailure

_SLOW_NAME_MS = 2000


def judge_access(facts: ClusterFacts, cluster: ClusterFile) -> Iterator[Verdict]:
    """Verdicts on everything that comes before the container runtime."""
    yield from _judge_key(facts.key_problem, cluster)
    if "\\" in cluster.ssh_user:
        yield Check("ssh", HERE).failed(
            f"Ray's launcher passes {cluster.ssh_user} to chown on every host without quotes (2.60), and a shell there "
            "removes the backslash: `up` would fail",
            "set auth.ssh_user to that user's other form, as alice@corp.example (`id alice@corp.example` on a host)",
        )
    for host, failure in facts.failures.items():
        yield _judge_failure(host, failure, cluster)
        yield Check("all other checks", host).unknown("it could not be reached by ssh")
    for host in sorted({*cluster.hosts} - {*facts.failures} - {found.address for found in facts.hosts}):
        yield Check("all other checks", host).unknown("there is no key to reach it with")
    for found in facts.hosts:
        yield Check("ssh", found.address).ok(f"{found.system.user} can log in ({found.system.distribution})")
        yield _judge_shell(found)
        yield _judge_name(found, cluster)
        yield _judge_sudo(found)
    yield from _judge_from_head(facts, cluster)


def _judge_key(problem: str, cluster: ClusterFile) -> Iterator[Verdict]:
    check, key = Check("key", HERE), cluster.ssh_private_key
    if key is None:
        if cluster.worker_ips:
            yield check.failed(
                "auth.ssh_private_key is not set: the head would have no key for the workers",
                f"add it in {cluster.shown_path}, under auth: (example: ssh_private_key: {SSH_KEY})",
            )
        return
    shown = shlex.quote(str(key))
    copy = shlex.join(["ssh-copy-id", "-i", f"{key}.pub", f"{cluster.ssh_user}@{cluster.head_ip}"])
    problems = {
        "missing": (
            f"{key} does not exist",
            f"set auth.ssh_private_key in {cluster.shown_path}; or create a key: ssh-keygen -t ed25519 -f {shown} "
            f"&& {copy} (and to each worker)",
        ),
        "public": (
            f"{key} is a public key, not the private one",
            f"set auth.ssh_private_key in {cluster.shown_path} to the private key"
            + (f": {key.with_suffix('')}" if key.suffix == ".pub" else ""),
        ),
        "no key": (
            f"{key} is no private key" + (", but a folder" if key.is_dir() else " in OpenSSH's or PEM format"),
            f"set auth.ssh_private_key in {cluster.shown_path} to the file of a private key",
        ),
        "open": (f"other users of this machine may read {key}: ssh refuses such a key", f"chmod 600 {shown}"),
        "passphrase": (
            f"{key} asks for a passphrase, and the head starts the workers without a terminal",
            "use a key without one: ssh-keygen -t ed25519 -N '' -f ~/.ssh/raylaunch, ssh-copy-id it to every host, and "
            "set it as auth.ssh_private_key",
        ),
        "broken": (
            f"{key} is not a private key that ssh can read",
            f"ssh-keygen -y -f {shown} must print its public key",
        ),
    }
    if problem in problems:
        yield check.failed(*problems[problem], safe=problem == "open")
    else:
        yield check.ok(f"{key} opens without a passphrase")


def write_login(cluster: ClusterFile, host: str, *words: str) -> str:
    """`ssh` into a host, with the cluster file's key, to run a command there, as a user types it."""
    key = ["-i", str(cluster.ssh_private_key)] if cluster.ssh_private_key else []
    return shlex.join(["ssh", *key, f"{cluster.ssh_user}@{host}", *words])


def _judge_failure(host: str, failure: SshFailure, cluster: ClusterFile) -> Verdict:
    user, key = cluster.ssh_user, shlex.quote(str(cluster.ssh_private_key))
    option = ["-i", f"{cluster.ssh_private_key}.pub"] if cluster.ssh_private_key else []
    login, port = write_login(cluster, host, "true"), re.search(r" port (\d+)", failure.message)
    seen = f"`{login}` shows its fingerprint: compare it with `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` on its"
    seen += " console, and answer yes if they are equal"
    jump = re.search(r"resolve hostname (\S+):", failure.message)
    kinds = {
        "name": (
            f"{jump[1]}, through which ~/.ssh/config or auth.ssh_proxy_command reaches it, does not resolve",
            "correct the name there",
        )
        if jump and jump[1].lower() != host.lower()
        else (
            "its name does not resolve on this machine",
            f"write its address into {cluster.shown_path} instead (`getent hosts {host}` must print it)",
        ),
        "route": (
            "no answer from that address: the machine is off, in another network, or behind a firewall",
            f"ping -c 3 {host}; on the machine's own console, `ip -br addr` shows its addresses",
        ),
        "refused": (
            f"the machine is up, but no sshd listens on port {port[1] if port else SSH_PORT}",
            "on its own console: sudo systemctl enable --now ssh (Debian, Ubuntu) or sshd (others)",
        ),
        "key": (
            f"it does not accept {f'the key {key}' if option else 'any of your keys'} for user {user}",
            f"{shlex.join(['ssh-copy-id', *option, f'{user}@{host}'])} (or correct auth.ssh_user)",
        ),
        "key file": ("ssh cannot use the private key", f"chmod 600 {key}; ssh-keygen -y -f {key}"),
        "host key": (
            "its host key is not known here, and `ray up` would send it your private key unchecked",
            seen,
        ),
        "changed host key": (
            "its host key has changed: it was reinstalled, or another machine answers at its address",
            f"if it was reinstalled: ssh-keygen -R {host}; then {seen}",
        ),
        "closed": (
            "sshd closes the connection before the login: it is overloaded, still starting, or blocks this machine",
            "on its own console: sudo journalctl -u ssh -u sshd -n 20 (fail2ban, hosts.deny, MaxStartups)",
        ),
        "slow": (
            "the login works, but the machine does not answer: overloaded, or a disk or name service hangs",
            f"{write_login(cluster, host, 'uptime')}; on its own console: dmesg -T | tail",
        ),
        "shell": (
            "the login ends before it runs a command: a start-up file exits, or the login shell is not a shell",
            f"{write_login(cluster, host, 'true')} must print nothing and exit with status 0; check exit and exec in "
            "~/.bashrc",
        ),
    }
    what, fix = kinds.get(failure.kind, ("ssh fails", f"{write_login(cluster, host, '-v', 'true')} shows more"))
    return Check("ssh", host).failed(f"{what} (ssh: {printable(failure.message)})", fix)


def _judge_shell(facts: HostFacts) -> Verdict:
    check, shell = Check("login shell", facts.address), facts.shell
    if not facts.system.has_bashrc:
        return check.failed(
            "~/.bashrc is missing, and every command of Ray's launcher reads it", "touch ~/.bashrc", safe=True
        )
    if shell.timed_out:
        return check.failed(
            "~/.bashrc does not finish: it waits, or asks for input",
            "on that host: bash -lixc true 2>&1 | tail shows the command",
        )
    noise = facts.noise.strip() or shell.text.removesuffix("RAN").strip()
    if noise:
        return check.failed(
            f'~/.bashrc prints "{printable(noise.splitlines()[0])}", which Ray\'s launcher reads as output of commands',
            "remove from ~/.bashrc there, and from what it calls, what prints (bash -lic true must print nothing)",
        )
    if shell.status != 0:
        return check.failed(
            f"~/.bashrc ends the shell with status {shell.status} before a command runs",
            "on that host: bash -lixc true 2>&1 | tail shows where; remove exit and `set -e` from ~/.bashrc",
        )
    return check.ok("silent")


def _judge_name(facts: HostFacts, cluster: ClusterFile) -> Verdict:
    host, name, section = facts.address, facts.system.hostname, facts.name
    check, fields = Check("hostname", host), section.text.split()
    took_ms = next((field.removeprefix("ms=") for field in fields if field.startswith("ms=")), "")
    line = f"{host if is_address(host) else 'ADDRESS'} {name}"
    command = f'echo "{line}" | {facts.system.sudo}tee -a /etc/hosts'
    if section.status != 0:
        what = f"its own name {name} does not resolve there: Ray waits 10 s at each lookup"
        return check.failed(what, command, safe=is_address(host))
    if took_ms.isdigit() and int(took_ms) > _SLOW_NAME_MS:
        return check.warning(f"its own name {name} takes {int(took_ms) / 1000:.0f} s to resolve there", command)
    address = fields[0] if fields else ""
    is_own = host == cluster.head_ip and host.partition(".")[0].lower() == name.partition(".")[0].lower()
    if address.startswith("127.") and is_own:
        return check.failed(
            f"its own name {name} resolves to {address} there, and Ray would give the workers that address of the head",
            f"write the head's address into {cluster.path.name} instead of its name; or remove the name from the line "
            f"`{address} ...` of its /etc/hosts",
        )
    if address.startswith("127.") and cluster.find_variable("GLOO_SOCKET_IFNAME") is None:
        return check.warning(
            f"its own name {name} resolves to {address}: Gloo would listen where no other host reaches it",
            "add `-e GLOO_SOCKET_IFNAME=...` to docker.run_options (configs/two-node.yaml has a command for it)",
        )
    return check.ok("resolves")


def _judge_sudo(facts: HostFacts) -> Verdict:
    check, user = Check("sudo", facts.address), facts.system.user
    if user == "root":
        return check.ok("not needed: the user is root")
    if facts.sudo.status == 0:
        return check.ok("without a password")
    rule, file = shlex.quote(f"{user} ALL=(ALL) NOPASSWD: ALL"), shlex.quote(f"/etc/sudoers.d/{user}")
    return check.warning(
        f"{user} has no sudo without a password: commands that need it have to be run on that host by hand",
        f"echo {rule} | sudo tee {file} (optional)",
    )


def _judge_from_head(facts: ClusterFacts, cluster: ClusterFile) -> Iterator[Verdict]:
    head = next((found for found in facts.hosts if found.address == cluster.head_ip), None)
    reached = {found.address for found in facts.hosts}
    for worker in (worker for worker in cluster.worker_ips if worker in reached):
        check = Check("head to worker", worker)
        if head is None or worker not in facts.from_head:
            yield check.unknown("the head could not be reached, or there is no key to give it")
            continue
        failure = facts.from_head[worker]
        port = head.network.reached.get(worker, {}).get(SSH_PORT) if head.network else None
        if failure is None:
            yield check.ok("the head can log in with the key that `ray up` sends it")
        elif failure.kind == "key":
            yield check.failed(
                "it accepts the key from here, but not from the head",
                f'check from="..." in its ~/.ssh/authorized_keys, and Match and AllowUsers in its sshd_config; '
                f"{cluster.head_ip} must be allowed",
            )
        elif port == "open":
            yield check.unknown(
                f"the head's sshd does not forward connections (ssh: {printable(failure.message)})",
                f"on {cluster.head_ip}, sshd_config: AllowTcpForwarding yes, then doctor can check it",
            )
        else:
            yield check.failed(
                f"the head does not reach its sshd ({port or printable(failure.message)})",
                f"on {worker}: allow {cluster.head_ip} to connect to port {SSH_PORT}",
            )
