"""Options that several verbs share.

The modules beside this one hold the verbs, one family each. A verb parses, loads, makes one call and prints; it imports
what it needs when it runs, so that the command line starts fast.
"""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from raylaunch.base.tls import ClientTls
    from raylaunch.config.launch import LaunchConfig
    from raylaunch.serve.service_record import Service

LAUNCH = click.argument("launch", required=False, type=click.Path(path_type=Path), metavar="[LAUNCH.yaml]")
SETS = click.option(
    "--set", "sets", multiple=True, metavar="KEY=VALUE", help="Set a value, as engine.max_model_len=8192."
)
PORT = click.option("--port", type=int, help="Port of the service, where several run here.")
CLUSTER = click.option(
    "--cluster", type=click.Path(path_type=Path), metavar="CLUSTER.yaml", help="Run it on that cluster, from here."
)
_TLS = (
    click.option("--insecure", is_flag=True, help="Do not check the server's certificate."),
    click.option("--cacert", type=click.Path(path_type=Path), help="PEM file of the CAs to trust.  [SSL_CERT_FILE]"),
    click.option("--cert", type=click.Path(path_type=Path), help="PEM file of the client certificate (mTLS)."),
    click.option("--key", type=click.Path(path_type=Path), help="PEM file of its key, if not in --cert."),
)
JSON = click.option("--json", "as_json", is_flag=True, help="Write JSON to stdout.")


def tls_options(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a verb that asks any server with --insecure, --cacert, --cert and --key."""
    for option in reversed(_TLS):
        verb = option(verb)
    return verb


def make_tls(*, insecure: bool, cacert: Path | None, cert: Path | None, key: Path | None) -> "ClientTls":
    """What these options say."""
    from raylaunch.base.tls import ClientTls

    if key is not None and cert is None:
        raise click.UsageError("--key is the key of a certificate: add --cert CERT.pem")
    return ClientTls(not insecure, cacert, None if cert is None else (cert, key))


def load_launch(launch: Path | None, sets: tuple[str, ...]) -> "LaunchConfig":
    """The launch of a verb's argument, with this process's variables and the verb's flags over it."""
    from raylaunch.config import launch_file

    return launch_file.load(launch, sets=sets, environ=os.environ)


def also_on_cluster(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Give a verb that takes a launch `--cluster`: with it, the same command runs in the head's container."""

    @CLUSTER
    @functools.wraps(verb)
    def run(*, cluster: Path | None, **given: Any) -> Any:
        if cluster is None:
            return verb(**given)
        from raylaunch.cli.values import write_options
        from raylaunch.config import cluster_file
        from raylaunch.provision import remote_launch

        loaded, file = load_launch(given["launch"], given["sets"]), cluster_file.load(cluster)
        context = click.get_current_context()
        options = write_options(context, without={"cluster", "sets"})
        if given.get("yes") is False:  # there is no terminal there to ask on
            click.confirm(f"Remove {loaded.model_folder} from every host of {cluster}?", abort=True, err=True)
            options.append("--yes")
        names = [link.info_name or "" for link in (context.parent, context) if link is not None]
        with report_interrupt("stopped; the same command continues"):
            return remote_launch.run_with_launch(file, loaded, names, options)

    return run


@contextlib.contextmanager
def report_interrupt(text: str) -> Iterator[None]:
    """Print what stays and what continues, where Ctrl-C ends the block."""
    try:
        yield
    except KeyboardInterrupt:
        from raylaunch.base import console

        console.say(text)
        raise


def find_service(port: int | None) -> "Service":
    """The one running service of this machine, or the one on `port`."""
    from raylaunch.serve import service_record

    return service_record.find_service(port)


def run_on_cluster(cluster: Path, verb: str, port: int | None, *options: str) -> int:
    """Run a verb on a cluster's head, with its output to ours; returns its exit status."""
    from raylaunch.config import cluster_file
    from raylaunch.provision import remote

    return remote.run_verb(cluster_file.load(cluster), [verb, *filter(None, options)], port)
