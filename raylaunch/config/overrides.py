"""Launch values from RAYLAUNCH_* variables and --set flags."""

from collections.abc import Mapping, Sequence

from pydantic import JsonValue

from raylaunch.base import viewpoint
from raylaunch.base.text import find_nearest, is_encodable, printable
from raylaunch.config.layers import BLOCKS, Key, LayeredValues, ValueSource
from raylaunch.config.schema import FileSchema, Part
from raylaunch.config.validation import accepts_type, find_meant, list_types
from raylaunch.config.yaml_reader import BadYamlError, parse_yaml

PREFIX = "RAYLAUNCH_"
RESERVED = ("RAYLAUNCH_HOME", "RAYLAUNCH_STANDIN", "RAYLAUNCH_MARK", viewpoint.VARIABLE)
"""Variables of raylaunch that are no launch values."""


def make_variable(key: Key) -> str:
    """The variable that sets the value at `key`: RAYLAUNCH_ENGINE__MAX_MODEL_LEN."""
    return PREFIX + "__".join(key).upper()


def read_variables(environ: Mapping[str, str], schema: FileSchema, layered: LayeredValues) -> None:
    """Read RAYLAUNCH_<BLOCK>__<FIELD>[__<SUB>] variables (values are YAML)."""
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name in RESERVED:
            continue
        shown = printable(name)
        key = tuple(name.removeprefix(PREFIX).lower().split("__"))
        if len(key) < 2 or key[0] not in BLOCKS or not all(key) or not is_encodable(name):
            nearest = _find_variable(name, schema)
            hint = f"; nearest is {nearest}" if nearest else ""
            layered.problems.append(f"{shown}: no variable of raylaunch{hint} (RAYLAUNCH_<BLOCK>__<FIELD>)")
        elif not environ[name]:
            # Reading "" as null would open a server whose key is missing.
            layered.problems.append(f"{shown}: set, but empty; give it a value or unset it")
        else:
            _put(
                layered, key, environ[name], ValueSource("variable", shown), schema.list_fields(*key[:-1]).get(key[-1])
            )


def _find_variable(name: str, schema: FileSchema) -> str | None:
    """The variable that an unknown one likely stands for."""
    key = name.removeprefix(PREFIX).lower()
    if block := next((block for block in BLOCKS if key.startswith(f"{block}_")), None):
        field = find_meant(key.removeprefix(block).strip("_"), schema.list_fields(block), block)
        return make_variable((block, field)) if field else None
    known = [make_variable((block, field)) for block in BLOCKS for field in schema.list_fields(block)]
    nearest = find_nearest(name.lower(), [variable.lower() for variable in (*known, *RESERVED)])
    return nearest.upper() if nearest else None


def read_vllm_key(environ: Mapping[str, str], layered: LayeredValues) -> None:
    """Take the API key of vLLM's own variable, which counts where no other layer sets one."""
    is_block = isinstance(layered.values.get("server") or {}, dict)
    if (key := environ.get("VLLM_API_KEY")) and is_block and layered.find_block(("server",)).get("api_key") is None:
        layered.put(("server", "api_key"), key, ValueSource("variable", "VLLM_API_KEY"))


def read_flags(sets: Sequence[str], schema: FileSchema, layered: LayeredValues) -> None:
    """Read --set KEY=VALUE flags (dotted keys, values are YAML)."""
    for text in sets:
        name, equals, value = text.partition("=")
        key = tuple(part.strip() for part in name.split("."))
        # Nothing behind the name is repeated: without its "=" it may be a secret.
        shown = f"--set {printable(name.split(':')[0])}" if equals else "--set"
        if not equals:
            layered.problems.append(f"{shown}: it has no value (example: --set engine.max_model_len=8192)")
        elif len(key) < 2 or not all(key) or not is_encodable(name):
            layered.problems.append(
                f"{shown}: no key of a launch; write BLOCK.FIELD (example: engine.max_model_len=8192)"
            )
        else:
            source = ValueSource("flag", f"--set {'.'.join(map(printable, key))}")
            _put(layered, key, value, source, schema.list_fields(*key[:-1]).get(key[-1]))


def _is_cut(text: str, value: JsonValue) -> bool:
    """Whether YAML left out a part of a text without quotes: from a # on, an anchor, a line's end."""
    if value is None:
        return text.startswith("#")
    return isinstance(value, str) and text[:1] not in ("'", '"', "|", ">", "!") and value != text


def _put(layered: LayeredValues, key: Key, text: str, source: ValueSource, part: Part | None) -> None:
    problems: list[str] = []
    value: JsonValue = None
    try:
        value, _ = parse_yaml(text, lambda _line, _key, what: problems.append(what))
    except BadYamlError as error:
        problems.append(error.what)
    may_be_text = part is not None and "string" in list_types(part)
    if may_be_text and (problems or not accepts_type(part or {}, value) or _is_cut(text.strip(), value)):
        value, problems = text, []  # where text fits, it is used as it stands: a key of digits, "*", "#x", "a #b"
    if "\0" in text or not is_encodable(text):
        problems = ["text that is not UTF-8"]
    if problems:
        layered.problems.append(f"{source.where}: its value cannot be read as YAML: {problems[0]}")
    else:
        layered.put(key, value, source)
