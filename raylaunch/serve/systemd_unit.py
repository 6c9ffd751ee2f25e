"""A systemd unit for `raylaunch serve`: it serves again after a crash of the supervisor or a reboot of the head."""

import importlib.resources
import re
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
_PASSED_ON = re.compile(
    r"(RAYLAUNCH|NCCL|VLLM|HF|HUGGING_FACE|RAY|GLOO|UCX|TORCH|PYTORCH|CUDA|NVIDIA|FLASHINFER|TRITON|OMP|SSL)_"
    r"|(PATH|LD_LIBRARY_PATH|LD_PRELOAD|PYTHONPATH|REQUESTS_CA_BUNDLE|TMPDIR|XDG_CACHE_HOME"
    r"|(http|https|no|all)_proxy|HTTPS?_PROXY|NO_PROXY|ALL_PROXY)$"
)
"""Variables that change what `serve` does."""
_NEVER = ("RAYLAUNCH_MARK", "RAYLAUNCH_STANDIN")
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
    for key, _, value in (setting.partition("=") for setting in sets):
        if (_is_text(launch, key) and text.is_secret(key.rpartition(".")[2])) or text.is_secret_value(value):
            raise LaunchFileError(
                f"--set {key}: every user of this machine can read a unit, and this is a secret",
                fix=f"put RAYLAUNCH_... into {home / 'serve.env'} (mode 0600); the unit reads it",
            )
    command = [_find_program("raylaunch"), "serve", *([str(launch.path)] if launch.path else [])]
    command += [word for setting in sets for word in ("--set", setting)] + (["--rehearse"] if rehearse else [])
    passed = {name: environ[name] for name in sorted(environ) if _PASSED_ON.match(name) and name not in _NEVER}
    secret = [name for name, value in passed.items() if text.is_secret(name) or text.is_secret_value(value)]
    variables = {**{name: passed[name] for name in passed if name not in secret}, "RAYLAUNCH_HOME": str(home)}
    lines = [f"Environment={_quote(f'{name}={value}')}" for name, value in variables.items()]
    lines.append("WorkingDirectory=" + str(Path.cwd()).replace("%", "%%"))
    if secret:
        lines.append(f"# Secrets of this environment, to be written into the file below: {', '.join(secret)}")
    unit = _read_template("raylaunch.service").substitute(
        model=text.printable(launch.served_model_names[0]).replace("%", "%%"),
        command=" ".join(_quote_argument(word) for word in command),
        environment="\n".join(lines),
        secrets=str(home / "serve.env").replace("%", "%%"),
        stop_s=int(launch.keep.drain_s) + _END_S,
    )
    if launch.cluster.local:
        return unit.rstrip("\n")
    gpus = f"--num-gpus={launch.cluster.gpus_per_node}"
    ray = _read_template("raylaunch-ray.service").substitute(ray=_quote_argument(_find_program("ray")), gpus=gpus)
    return unit + _RAY_COMMENT.format(gpus=gpus) + "\n".join(f"#   {line}" for line in ray.splitlines())


def _is_text(launch: LaunchConfig, key: str) -> bool:
    """Whether the launch has text at a key: 123456 is a key in server.api_key, and a number elsewhere."""
    value: object = launch.dump(mask=False)
    for name in key.split("."):
        value = value.get(name, "") if isinstance(value, dict) else value
    return isinstance(value, str | list)


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
