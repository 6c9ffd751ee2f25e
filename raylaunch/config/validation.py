"""Checks the keys and values of a launch or cluster file against its JSON Schema: every problem, each with its place.

The messages are made here. tests/config/test_schema.py holds the verdicts to those of the `jsonschema` package.
"""

import json
import math
import operator
import re
from collections.abc import Iterator, Mapping

from pydantic import JsonValue

from raylaunch.base.text import find_nearest, is_misspelling, is_secret, list_choices, quote
from raylaunch.config.layers import Key, LayeredValues, show_key
from raylaunch.config.other_names import EXPLAINED, MEANT
from raylaunch.config.removed_options import read_removed
from raylaunch.config.schema import FileSchema, Part, read_shipped

MAX_PROBLEMS = 50
"""More are counted, not listed."""

_OF_VLLM = ("engine", "server")
_TYPE_NAMES = {
    "boolean": "true or false",
    "integer": "an integer",
    "number": "a number",
    "string": "text",
    "array": "a list",
    "object": "a block of `name: value`",
    "null": "null",
}
_LIMITS = (
    ("minimum", "at least", operator.ge),
    ("exclusiveMinimum", "more than", operator.gt),
    ("maximum", "at most", operator.le),
    ("exclusiveMaximum", "less than", operator.lt),
)


def find_type(value: JsonValue) -> str:
    """The JSON type of a value, "integer" for 1 but not for 1.0."""
    names: Mapping[type, str] = {
        bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object",
    }  # fmt: skip
    return names.get(type(value), "null")


def list_types(part: Part) -> list[str]:
    """The JSON types that a value may have; empty where every type is accepted."""
    types = part.get("type", [])
    return [types] if isinstance(types, str) else list(types)


def accepts_type(part: Part, value: JsonValue) -> bool:
    """Whether the type of a value fits; its range and form are not checked."""
    types, found = list_types(part), find_type(value)
    return not types or found in types or (found == "integer" and "number" in types)


def check(part: Part, value: JsonValue, *, secret: bool = False) -> Iterator[str]:
    """What is wrong with a value, each as the end of a sentence; the keys of blocks are not checked.

    Args:
        secret: the value must not be repeated.
    """
    form = part.get("errorMessage")
    if not accepts_type(part, value):
        yield _describe_mismatch(part, value, secret=secret)
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"{value} is not a finite number" + (f" (example: {make_example(part)})" if list_types(part) else "")
    elif form and not _has_form(part, value):
        yield form if secret or "not" in part else f"{quote(value)} {form}"
    elif not _is_choice(part, value):
        choices = [str(choice) for choice in part["enum"] if choice is not None]
        yield f"{'this' if secret else quote(value)} is not a choice; {list_choices(str(value), choices)}"
    elif isinstance(value, int | float) and not isinstance(value, bool):
        limits = [(phrase, part[name], holds(value, part[name])) for name, phrase, holds in _LIMITS if name in part]
        if not all(holds for _, _, holds in limits):
            wanted = " and ".join(f"{phrase} {limit:g}" for phrase, limit, _ in limits)
            yield f"{value} is out of range: it must be {wanted} (example: {make_example(part)})"
    elif isinstance(value, list):
        for number, item in enumerate(value, 1):
            problems = check(part.get("items", {}), item, secret=secret)
            yield from (f"entry {number}: {problem}" for problem in problems)


def make_example(part: Part) -> str:
    """A value that fits, as one would write it in the file."""
    known = [*part.get("examples", ()), part.get("default"), *reversed(part.get("enum", ()))]
    if found := [value for value in known if value is not None]:
        return found[0] if isinstance(found[0], str) else json.dumps(found[0])
    kind = next(iter(list_types(part)), "string")
    if kind in ("integer", "number"):
        low = part.get("minimum", part.get("exclusiveMinimum", 0))
        high = part.get("maximum", part.get("exclusiveMaximum"))
        number = (low + high) / 2 if high is not None else max(low, 1)
        return f"{int(number) if kind == 'integer' else float(number)}"
    return {"boolean": "true", "array": "[a, b]", "object": "{name: value}"}.get(kind, "text")


def _has_form(part: Part, value: JsonValue) -> bool:
    return not (
        "not" in part
        or not _is_choice(part, value)
        or (isinstance(value, str) and "pattern" in part and not re.fullmatch(part["pattern"], value))
        or (isinstance(value, list) and len(value) < part.get("minItems", 0))
    )


def _is_choice(part: Part, value: JsonValue) -> bool:
    choices = part.get("enum")
    return choices is None or any(value == choice and find_type(value) == find_type(choice) for choice in choices)


def _describe_mismatch(part: Part, value: JsonValue, *, secret: bool) -> str:
    types, kind = list_types(part), find_type(value)
    wanted = " or ".join(_TYPE_NAMES[name] for name in types)
    got = "nothing" if value is None else _TYPE_NAMES[kind]
    hidden = secret and (kind == "string" or "string" in types)
    if kind in ("boolean", "integer", "number", "string") and not hidden:
        got += f" ({quote(value)})"
    hint = make_example(part)
    if isinstance(value, str) and {"integer", "number"} & {*types}:
        hint = value if value.isdecimal() and value.isascii() and len(value) < 16 and not hidden else hint
        return f"expected {wanted}, got {got}: write a number without quotes and with digits only (example: {hint})"
    if "string" in types and kind in ("boolean", "integer", "number"):
        return f"expected {wanted}, got {got}: put it in quotes"
    return f"expected {wanted}, got {got} (example: {hint})"


def check_values(layered: LayeredValues, schema: FileSchema) -> set[Key]:
    """Add a problem for every key and value that does not fit.

    Returns:
        The paths of these keys.
    """
    checker = _Checker(layered, schema)
    checker.check_block(layered.values, schema.document, ())
    return checker.bad


class _Checker:
    def __init__(self, layered: LayeredValues, schema: FileSchema) -> None:
        self.layered = layered
        self.schema = schema
        self.bad: set[Key] = set()

    def check_block(self, values: dict[str, JsonValue], part: Part, key: Key) -> None:
        """Check the keys of a block and their values; whole numbers written as 1e5 become integers."""
        part = self.schema.resolve(part)
        fields, others = part.get("properties", {}), part.get("additionalProperties")
        for name, value in values.items():
            path = (*key, name)
            if len(self.layered.problems) > MAX_PROBLEMS:
                self.bad.add(path)
            elif name not in fields and others is False:
                self._complain(path, self._describe_unknown(name, value, fields, path))
            else:
                field = fields.get(name, others or {})
                values[name] = _fit_integers(field, value)
                self.check_value(field, values[name], path)
        for name in part.get("required", ()):
            if name not in values:
                missing, example = show_key((*key, name)), make_example(fields[name])
                self.layered.problems.append(f"{missing} is missing (example: {name}: {example})")

    def check_value(self, part: Part, value: JsonValue, path: Key) -> None:
        problems = [*check(part, value, secret=any(map(is_secret, path)))]
        for problem in problems:
            is_dtype = path == ("engine", "dtype") and isinstance(value, str)
            self._complain(path, (f"vLLM {self.schema.vllm} has no such dtype: " if is_dtype else "") + problem)
        if isinstance(value, dict):
            self.check_block(value, part, path)
        elif isinstance(value, list) and "$ref" in part.get("items", {}) and not problems:
            for number, item in enumerate(value):
                self.check_value(part["items"], item, (*path, str(number)))

    def _complain(self, path: Key, what: str) -> None:
        self.bad.add(path)
        self.layered.complain(path, what)

    def _describe_unknown(self, name: str, value: JsonValue, fields: Mapping[str, Part], path: Key) -> str:
        plain = name.lstrip("-").replace("-", "_")
        of_vllm = path[0] in _OF_VLLM and len(path) > 1
        if of_vllm and (removed := read_removed().get(".".join((*path[1:-1], plain)))):
            return str(removed)
        if of_vllm and plain in EXPLAINED and plain not in fields:
            return f"unknown key; {EXPLAINED[plain]}"
        nearest = find_meant(plain, {key: part for key, part in fields.items() if _has(fields, key)}, path[0])
        is_block = len(path) == 1 and all("$ref" in part for part in fields.values())
        noun = "block" if is_block else "key"
        meant = MEANT.get(plain, plain)
        homes = [block for block in self.schema.list_fields() if _has(self.schema.list_fields(block), meant)]
        if homes and path[0] not in homes and (nearest is None if is_block else nearest != meant):
            return f"unknown {noun}; it belongs to the {homes[0]} block ({homes[0]}.{meant})"
        shipped = read_shipped()
        if of_vllm and plain not in fields and plain in shipped.list_fields(*path[:-1]):
            return f"vLLM {self.schema.vllm}, which is installed, does not have it; vLLM {shipped.vllm} does"
        if nearest is None and of_vllm:
            return f"unknown key: vLLM {self.schema.vllm} has none like it"
        if nearest is None:
            return f"unknown {noun}; valid are {', '.join(key for key, part in fields.items() if 'not' not in part)}"
        if is_block:
            return f"unknown block; nearest is {nearest}"
        secret = isinstance(value, str) and (is_secret(name) or is_secret(nearest))
        return f"unknown key; nearest is {nearest} (example: {_adapt_example(nearest, fields[nearest], value, secret)})"


def _has(fields: Mapping[str, Part], name: str) -> bool:
    """Whether a key is known, and not only to be refused."""
    return name in fields and "not" not in fields[name]


def _fit_integers(part: Part, value: JsonValue) -> JsonValue:
    """`value` as an integer where only an integer fits and it is a whole number, as 1e5 is; lists entry by entry."""
    if isinstance(value, list) and "items" in part:
        return [_fit_integers(part["items"], entry) for entry in value]
    if not isinstance(value, float) or accepts_type(part, value) or not accepts_type(part, 0):
        return value
    return int(value) if value.is_integer() and abs(value) < 1 << 53 else value  # so far a float is exact


def find_meant(name: str, fields: Mapping[str, Part], block: str) -> str | None:
    """The field that an unknown name stands for. Options of vLLM come and go: there only a misspelling is likely."""
    if (meant := MEANT.get(name, "")) in fields:
        return meant
    nearest = find_nearest(name, fields)
    if nearest is None or _turns_sense(name, nearest) or (block in _OF_VLLM and not is_misspelling(name, nearest)):
        return None
    return nearest


def _turns_sense(name: str, nearest: str) -> bool:
    """Whether one of two names disables what the other enables."""
    negative = re.compile(r"(^|_)(disable|no|skip|without)_")
    return bool(negative.search(name)) != bool(negative.search(nearest))


def _adapt_example(name: str, part: Part, value: JsonValue, secret: bool) -> str:
    """An example for a key, with the value that was given where that fits."""
    fits = not isinstance(value, dict | list | None) and not secret and not [*check(part, value)]
    is_plain = isinstance(value, str) and re.fullmatch(r"[A-Za-z/][\w./-]{0,50}", value)
    return f"{name}: {(value if is_plain else quote(value)) if fits else make_example(part)}"
