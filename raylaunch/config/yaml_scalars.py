"""Plain scalars: numbers as YAML 1.2 has them, booleans and null as YAML 1.1 has them.

YAML 1.1 reads 1e-3, 1e6 and 0o17 as text, 017 as fifteen and 10:30 as 630. Numbers here are those of YAML 1.2's core
schema, and digits grouped by _ as in Python (32_768). `yes`, `no`, `on` and `off` stay booleans, as for vLLM's --config
and for Ray: in a free-form block the text "no" would read as true.
"""

import re
from collections.abc import Iterator

TAG = "tag:yaml.org,2002:"
_DIGITS = r"[0-9]+(?:_[0-9]+)*"
_INT = re.compile(rf"[-+]?(?:0o[0-7]+|0x[0-9a-fA-F]+|{_DIGITS})\Z")
_FLOAT = re.compile(
    rf"[-+]?(?:(?:{_DIGITS}(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|\.(?:inf|Inf|INF))\Z|\.(?:nan|NaN|NAN)\Z"
)
_BOOLS = {"yes": True, "true": True, "on": True, "no": False, "false": False, "off": False}
_BOOL = re.compile(rf"(?:{'|'.join(form for word in _BOOLS for form in (word, word.title(), word.upper()))})\Z")
_NULL = re.compile(r"(?:~|null|Null|NULL|)\Z")


def list_resolvers() -> Iterator[tuple[str, re.Pattern[str], list[str]]]:
    """Tag, form and first characters of the scalars that are no text; the first that fits counts."""
    yield f"{TAG}int", _INT, list("-+0123456789")
    yield f"{TAG}float", _FLOAT, list("-+.0123456789")
    yield f"{TAG}bool", _BOOL, list("yYnNtTfFoO")
    yield f"{TAG}null", _NULL, ["~", "n", "N", ""]
    yield f"{TAG}merge", re.compile(r"<<\Z"), ["<"]


def read_scalar(tag: str, text: str) -> int | float | bool | None:
    """The value of a scalar that is no text.

    Args:
        tag: "int", "float", "bool" or "null".

    Raises:
        ValueError: an explicit tag (!!int x) that does not fit the text.
    """
    forms = {"int": (_INT,), "float": (_FLOAT, _INT), "bool": (_BOOL,), "null": (_NULL,)}[tag]
    if not any(form.match(text) for form in forms):
        raise ValueError(text)
    if tag == "bool":
        return _BOOLS[text.lower()]
    if tag == "null":
        return None
    digits = text.lstrip("+-").lower()
    if tag == "float":
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    base = {"0o": 8, "0x": 16}.get(digits[:2], 10)
    return int(digits.removeprefix("0o").removeprefix("0x"), base) * (-1 if text.startswith("-") else 1)
