"""A systemd unit for `raylaunch serve`: it serves again after a crash of the supervisor or a reboot of the head."""

import importlib.resources
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template

from raylaunch.base import text
from raylaunch.base.errors import LaunchFileError
from raylaunch.config.launch import LaunchConfig

_END_S = 60
"""Beyond drain_s, to end engine, workers and Ray."""
_PASSED_ON = ("RAYLAUNCH_HOME", "RAY_ADDRESS", "RAY_AUTH_MODE", "HF_HOME", "HF_ENDPOINT", "HF_HUB_OFFLINE")
_RAY_COMMENT = """
# Ray's head on this machine: save the lines below beside it as raylaunch-ray.service, and enable it too.
# On each other node the same with: start --address=<head ip>:6379 {gpus} --block
"""


def make_unit(
    launch: LaunchConfig, *, sets: Sequence[str], rehearse: bool, home: Path, environ: Mapping[str, str]
) -> str:
    """The text of a unit that serves `launch`; for a joined cluster, Ray's own unit follows as comments.

    It holds no secrets: RAYLAUNCH_SERVER__API_KEY and the like belong into the file that EnvironmentFile names.

    Raises:
        LaunchFileError: a --set holds a secret.
    """
    for key in (setting.partition("=")[0] for setting in sets):
        if text.is_secret(key.rpartition(".")[2]):
            raise LaunchFileError(
                f"--set {key}: every user of this machine can read a unit, and this is a secret",
                fix=f"put RAYLAUNCH_... into {home / 'serve.env'} (mode 0600); the unit reads it",
            )
    command = [_find_program("raylaunch"), "serve", *([str(launch.path)] if launch.path else [])]
    command += [word for setting in sets for word in ("--set", setting)] + (["--rehearse"] if rehearse else [])
    variables = {"RAYLAUNCH_HOME": str(home), **{name: environ[name] for name in _PASSED_ON if name in environ}}
    unit = _read_template("raylaunch.service").substitute(
        model=text.printable(launch.served_model_names[0]).replace("%", "%%"),
        command=" ".join(_quote_argument(word) for word in command),
        environment="\n".join(f"Environment={_quote(f'{name}={value}')}" for name, value in variables.items()),
        secrets=str(home / "serve.env").replace("%", "%%"),
        stop_s=int(launch.keep.drain_s) + _END_S,
    )
    if launch.cluster.local:
        return unit.rstrip("\n")
    gpus = f"--num-gpus={launch.cluster.gpus_per_node}"
    ray = _read_template("raylaunch-ray.service").substitute(ray=_quote_argument(_find_program("ray")), gpus=gpus)
    return unit + _RAY_COMMENT.format(gpus=gpus) + "\n".join(f"#   {line}" for line in ray.splitlines())


def _find_program(name: str) -> str:
    return shutil.which(name, path=str(Path(sys.executable).parent)) or name


def _read_template(name: str) -> Template:
    return Template((importlib.resources.files("raylaunch.data") / name).read_text())


def _quote(value: str) -> str:
    """A word of a unit file, where % begins a specifier."""
    value = value.replace("%", "%%")
    if shlex.quote(value) == value:
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _quote_argument(value: str) -> str:
    """An argument of ExecStart=, where $ begins a variable, too (it does not in Environment=)."""
    return _quote(value.replace("$", "$$"))
