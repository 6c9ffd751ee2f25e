"""A systemd unit for `raylaunch serve`, so that a crash of it or a reboot of the head needs no hand."""

import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from raylaunch.base import text as words
from raylaunch.base.errors import LaunchFileError
from raylaunch.config.launch import LaunchConfig

_END_S = 60
"""Beyond drain_s, for engine, workers and Ray's goodbye."""
_PASSED_ON = ("RAYLAUNCH_HOME", "RAY_ADDRESS", "RAY_AUTH_MODE", "HF_HOME", "HF_ENDPOINT", "HF_HUB_OFFLINE")


def make_unit(
    launch: LaunchConfig, *, sets: Sequence[str], rehearse: bool, home: Path, environ: Mapping[str, str]
) -> str:
    """The unit's text.

    Secrets are not in it: RAYLAUNCH_SERVER__API_KEY and the like belong into the file that EnvironmentFile names.

    Raises:
        LaunchFileError: a --set holds a secret.
    """
    for said in sets:
        if words.is_secret(said.partition("=")[0].rpartition(".")[2]):
            raise LaunchFileError(
                f"--set {said.partition('=')[0]}: a unit can be read by everybody, and this is a secret",
                fix=f"put RAYLAUNCH_... into {home / 'serve.env'} (mode 0600); the unit reads it",
            )
    program = shutil.which("raylaunch", path=str(Path(sys.executable).parent)) or "raylaunch"
    arguments = [program, "serve", *([str(launch.path)] if launch.path else [])]
    arguments += [word for said in sets for word in ("--set", said)] + (["--rehearse"] if rehearse else [])
    known = {"RAYLAUNCH_HOME": str(home), **{name: environ[name] for name in _PASSED_ON if name in environ}}
    lines = [f"Environment={_quote(f'{name}={value}')}" for name, value in known.items()]
    return "\n".join(
        [
            f"# raylaunch: {launch.served_model_names[0]}. Save as /etc/systemd/system/raylaunch.service, then:",
            "#   systemctl daemon-reload && systemctl enable --now raylaunch",
            "[Unit]",
            f"Description=raylaunch serves {launch.served_model_names[0]}".replace("%", "%%"),
            "After=network-online.target docker.service raylaunch-ray.service",
            "Wants=network-online.target",
            "StartLimitIntervalSec=0",
            "",
            "[Service]",
            "Type=exec",
            f"ExecStart={' '.join(_quote(argument) for argument in arguments)}",
            *lines,
            f"EnvironmentFile=-{home / 'serve.env'}",
            "Restart=always",
            "RestartSec=5",
            "# One SIGTERM to the supervisor: it drains, and ends everything else itself.",
            "KillMode=mixed",
            f"TimeoutStopSec={int(launch.keep.drain_s) + _END_S}",
            "LimitNOFILE=1048576",
            "",
            "[Install]",
            "WantedBy=multi-user.target",
            *([] if launch.cluster.local else _describe_ray(launch)),
        ]
    )


def _describe_ray(launch: LaunchConfig) -> list[str]:
    """The unit that brings Ray's head back before it, as comments."""
    ray = shutil.which("ray", path=str(Path(sys.executable).parent)) or "ray"
    gpus = f"--num-gpus={launch.cluster.gpus_per_node}"
    return [
        "",
        "# Ray's head on this machine: what follows, saved beside it as raylaunch-ray.service, and enabled, too.",
        f"# On each other node the same with: start --address=<head ip>:6379 {gpus} --block",
        "#   [Unit]",
        "#   After=network-online.target",
        "#   Wants=network-online.target",
        "#   [Service]",
        f"#   ExecStart={_quote(ray)} start --head --port=6379 {gpus} --block",
        "#   Restart=always",
        "#   LimitNOFILE=1048576",
        "#   [Install]",
        "#   WantedBy=multi-user.target",
    ]


def _quote(text: str) -> str:
    """A word of a unit file: % and $ are systemd's own."""
    escaped = text.replace("%", "%%").replace("$", "$$")
    return escaped if shlex.quote(escaped) == escaped else '"' + escaped.replace("\\", "\\\\").replace('"', '\\"') + '"'
