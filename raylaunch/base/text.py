"""Words for error messages: values shown safely, the nearest valid name, what is secret."""

import difflib
import re
import time
from collections.abc import Iterable, Sequence
from typing import Any


def describe_age(since: float) -> str:
    """Time since a wall-clock moment in words: "42 s", "5 min", "3 h 20 min"."""
    seconds = max(0, int(time.time() - since))
    if seconds < 120:
        return f"{seconds} s"
    if seconds < 7200:
        return f"{seconds // 60} min"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"


def describe_seconds(seconds: float) -> str:
    """A duration in words: "42 s", "5 min", "3 h 20 min"."""
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    return f"{whole // 60} min" if whole < 7200 else f"{whole // 3600} h {whole % 3600 // 60} min"


MASK = "********"


_LONGEST = 60


_SECRET_WORDS = re.compile(
    r"(^|_)(key|keys|token|tokens|secret|secrets|password|passwd|credential|credentials|authorization|auth)(_|$)"
    r"|(apikey|accesskey|secretkey|authtoken|accesstoken|hftoken|password|secret)"
)


def printable(text: str) -> str:
    """`text` as one line without control characters or half characters, cut to a length that fits a sentence."""
    cut = text if len(text) <= _LONGEST else text[:_LONGEST] + "..."
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in cut)


def quote(value: Any) -> str:
    """A scalar as one would write it: text in quotes."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f'"{printable(value)}"' if isinstance(value, str) else printable(str(value))


def is_encodable(text: str) -> bool:
    """Whether `text` can be written as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def find_nearest(name: str, valid: Iterable[str]) -> str | None:
    """The valid name that is most like `name`, or None where none is."""
    plain = name.lower().replace("-", "_")[:_LONGEST]
    found = difflib.get_close_matches(plain, list(valid), n=1, cutoff=0.6)
    return found[0] if found else None


def list_choices(name: str, valid: Sequence[str]) -> str:
    """ "nearest is X (of A, B, ...)"."""
    nearest = find_nearest(name, valid)
    choices = ", ".join(valid[:20]) + (", ..." if len(valid) > 20 else "")
    return f"nearest is {nearest} (of {choices})" if nearest else f"choose one of {choices}"


def is_secret(name: str) -> bool:
    """Whether a value of this name must not be shown where it is text (api_key, hf_token; not tokenizer)."""
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).replace("-", "_").lower()
    return _SECRET_WORDS.search(snake) is not None


def mask(value: Any, *, secret: bool = False) -> Any:
    """`value` with all text under secret names masked, at any depth.

    Args:
        secret: the value itself has a secret name.
    """
    if isinstance(value, dict):
        return {key: mask(entry, secret=secret or is_secret(key)) for key, entry in value.items()}
    if isinstance(value, list):
        return [mask(entry, secret=secret) for entry in value]
    return MASK if secret and isinstance(value, str) else value
