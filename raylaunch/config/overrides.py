"""Launch values from RAYLAUNCH_* variables and --set flags."""

from collections.abc import Mapping, Sequence
from typing import Any

from raylaunch.base.text import find_nearest, is_encodable, printable
from raylaunch.config.layers import BLOCKS, Key, Said, Source
from raylaunch.config.validation import Schema
from raylaunch.config.vllm_schema import Option
from raylaunch.config.yaml_reader import BadYamlError, parse_yaml

PREFIX = "RAYLAUNCH_"
RESERVED = ("RAYLAUNCH_HOME", "RAYLAUNCH_STANDIN", "RAYLAUNCH_MARK")
"""Variables of raylaunch that are no launch values."""


def make_variable(key: Key) -> str:
    """The variable that says the value at `key`: RAYLAUNCH_ENGINE__MAX_MODEL_LEN."""
    return PREFIX + "__".join(key).upper()


def read_variables(environ: Mapping[str, str], schema: Schema, said: Said) -> None:
    """Say what RAYLAUNCH_<BLOCK>__<FIELD>[__<SUB>] variables say (values are YAML)."""
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name in RESERVED:
            continue
        shown = printable(name)
        key = tuple(name.removeprefix(PREFIX).lower().split("__"))
        if len(key) < 2 or key[0] not in BLOCKS or not all(key) or not is_encodable(name):
            known = [make_variable((block, field)) for block in BLOCKS for field in schema.blocks[block]]
            nearest = find_nearest(name.lower(), [variable.lower() for variable in (*known, *RESERVED)])
            hint = f"; nearest is {nearest.upper()}" if nearest else ""
            said.problems.append(f"{shown}: no variable of raylaunch{hint} (RAYLAUNCH_<BLOCK>__<FIELD>)")
        elif not environ[name]:
            # Taking "" for null would open a server whose key failed to come.
            said.problems.append(f"{shown}: set, but empty; give it a value or unset it")
        else:
            _say(said, key, environ[name], Source("variable", shown), schema.find_option(key))


def read_flags(sets: Sequence[str], schema: Schema, said: Said) -> None:
    """Say what --set KEY=VALUE flags say (dotted keys, values are YAML)."""
    for text in sets:
        name, equals, value = text.partition("=")
        key = tuple(part.strip() for part in name.split("."))
        # Nothing behind the name is repeated: without its "=" it may be a secret.
        shown = f"--set {printable(name.split(':')[0])}" if equals else "--set"
        if not equals:
            said.problems.append(f"{shown}: it has no value (example: --set engine.max_model_len=8192)")
        elif len(key) < 2 or not all(key) or not is_encodable(name):
            said.problems.append(f"{shown}: no key of a launch; write BLOCK.FIELD (example: engine.max_model_len=8192)")
        else:
            _say(said, key, value, Source("flag", f"--set {'.'.join(map(printable, key))}"), schema.find_option(key))


def _say(said: Said, key: Key, text: str, source: Source, option: Option | None) -> None:
    problems: list[str] = []
    value: Any = None
    try:
        value, _ = parse_yaml(text, lambda _line, _key, what: problems.append(what))
    except BadYamlError as error:
        problems.append(error.what)
    takes_text = option is not None and "str" in option.kinds
    if takes_text and option is not None and (problems or not option.takes(value)):
        value, problems = text, []  # where only text fits, the text as it stands is meant: a key of digits, a "*"
    if "\0" in text or not is_encodable(text):
        problems = ["text that is not UTF-8"]
    if problems:
        said.problems.append(f"{source.where}: its value cannot be read as YAML: {problems[0]}")
    else:
        said.put(key, value, source)
