"""What `docker run` (29) would refuse in run_options, or take for something else than was meant; one sentence each."""

import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches

from raylaunch.base.text import quote
from raylaunch.config.run_options import RunOption

_MEANT = (
    *("--gpus", "--shm-size", "--ulimit", "--volume", "--device", "--env", "--env-file", "--mount", "--runtime"),
    *("--cap-add", "--security-opt", "--privileged", "--ipc", "--network", "--memory", "--entrypoint", "--group-add"),
)
_OTHERS = (
    "--mac-address",
    "--memory-swap",
    "--volumes-from",
    "--volume-driver",
    "--volume-opt",
    "--net",
    "--label-file",
)
"""Options of docker whose names are close to one of these."""
_SIZES = ("--shm-size", "--memory", "--memory-swap", "--memory-reservation")
_SIZE = re.compile(r"\d+(?:\.\d+)?(?:e\d+)? ?(?:[bB]|[kKmMgGtTpP](?:[iI]?[bB])?)?")
_LIMIT = re.compile(r"[a-z]+=(?:-?\d+)(?::-?\d+)?")
_SHELLS = re.compile(r"(?:.*/)?(?:ba|da|z)?sh")
_LITERAL_HOME = re.compile(r"""(?:--volume=|-v ?=|-v\s*["']|--volume\s+["']|\b(?:source|src)=)["']?~""")
_MOST_BYTES_MEANT = 2**20


def find_refused(options: Sequence[RunOption], lines: Sequence[str]) -> Iterator[str]:
    """Problems of the options, and of their lines as they are written, by the values that no shell expands."""
    if any(map(_LITERAL_HOME.search, lines)):
        yield "no shell expands this ~, so docker takes it for a name: write $HOME"
    for option in options:
        if not set(option.value) & {"$", "`"}:
            yield from _judge(option.name, option.value)


def _judge(name: str, value: str) -> Iterator[str]:
    written = f"{name} {value}".rstrip()
    if name in _SIZES and not _SIZE.fullmatch(value) and (name, value) != ("--memory-swap", "-1"):
        yield f"{written}: docker reads a number with b, k, m, g, kb, mb, gb, kib, mib or gib, such as 16g"
    elif name == "--shm-size" and value.isdigit() and int(value) < _MOST_BYTES_MEANT:
        yield f"{written} are {value} bytes: write {value}g for GiB"
    elif name == "--ulimit" and not _LIMIT.fullmatch(value):
        yield f"{written}: docker reads a name with one or two numbers, -1 for no limit, such as memlock=-1"
    elif name == "--restart" and value != "no":
        yield f"{written}: Ray's launcher gives each container --rm, which docker refuses beside it: leave it out"
    elif name == "--entrypoint" and _SHELLS.fullmatch(value):
        yield f'{written}: Ray\'s launcher appends `bash`, which {value} would take for a script: write --entrypoint ""'
    elif name == "--mount" and not re.search(r"(?:^|,)(?:target|destination|dst)=[^,]", value):
        yield f"{written} has no target=/PATH"
    elif name == "--volume" and (problem := _judge_volume(value)):
        yield f"{written}: {problem}"
    elif name not in (*_MEANT, *_OTHERS) and (close := get_close_matches(name, _MEANT, 1, 0.85)):
        yield f"{quote(name)} is no option of docker: did you mean {close[0]}?"


def _judge_volume(value: str) -> str:
    source, colon, rest = value.partition(":")
    if colon and not rest.partition(":")[0]:
        return "the path in the container is missing"
    if colon and "/" in source and not source.startswith(("/", "./", "../", "~")):
        return f"docker takes {source} for the name of a volume, which has no /: a folder of the host starts with /"
    return ""
