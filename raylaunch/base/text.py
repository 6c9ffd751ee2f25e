"""Text for messages: durations, values shown safely, the nearest valid name, masked secrets."""

import difflib
import re
import time
from collections.abc import Iterable, Sequence
from typing import Any

MASK = "********"
_LONGEST = 60
_SECRET_WORDS = re.compile(
    r"(^|_)(key|keys|token|secrets?|password|passwd|credentials?|authorization|auth)$|^tokens$"
    r"|(^|_)(api|access|auth|bearer|hf|secret)_(keys?|tokens?)(_|$)"
    r"|(apikey|accesskey|secretkey|authtoken|accesstoken|hftoken|password|passwd|secret|credential)"
)
_VOCABULARY = re.compile(r"(^|_)(bos|eos|pad|mask|unk|sep|cls|image|video|audio|stop|think|special|start|end)_token$")
"""Tokens of a tokenizer."""
_SECRET_VALUE = re.compile(r"(hf_[A-Za-z0-9]{16,}|sk-[\w-]{8,}|gh[pousr]_[A-Za-z0-9]{20,}|AKIA[A-Z0-9]{16})\Z")


def describe_age(since: float) -> str:
    """Time since `since` (seconds since 1970), as describe_seconds."""
    return describe_seconds(max(0.0, time.time() - since))


def describe_seconds(seconds: float) -> str:
    """A duration as "42 s", "5 min" or "3 h 20 min"."""
    rounded = round(seconds)
    if rounded < 120:
        return f"{rounded} s"
    return f"{rounded // 60} min" if rounded < 7200 else f"{rounded // 3600} h {rounded % 3600 // 60} min"


def describe_span(numbers: Sequence[int]) -> str:
    """Ascending numbers as "3", "0-15" or "0,4"."""
    if len(numbers) > 1 and list(numbers) == list(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]}-{numbers[-1]}"
    return ",".join(map(str, numbers))


def printable(text: str) -> str:
    """`text` on one line, control characters and lone surrogates escaped, cut to 60 characters."""
    return escape(text if len(text) <= _LONGEST else text[:_LONGEST] + "...")


def escape(text: str) -> str:
    """`text` with control characters and lone surrogates escaped, so that a terminal shows it on one line."""
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)


def quote(value: Any) -> str:
    """A scalar as YAML writes it; strings in quotes."""
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
    """The valid name most similar to `name`, or None where none is similar."""
    plain = name.lower().replace("-", "_")[:_LONGEST]
    found = difflib.get_close_matches(plain, list(valid), n=1, cutoff=0.6)
    return found[0] if found else None


def is_misspelling(name: str, of: str) -> bool:
    """Whether `name` is `of` with a few letters wrong, missing or swapped, and not a name of something else."""
    plain = name.lower().replace("-", "_")[:_LONGEST]
    return sorted(plain) == sorted(of) or bool(difflib.get_close_matches(plain, [of], cutoff=0.8))


def list_choices(name: str, valid: Sequence[str]) -> str:
    """ "nearest is X (of A, B, ...)"."""
    nearest = find_nearest(name, valid)
    choices = ", ".join(valid[:20]) + (", ..." if len(valid) > 20 else "")
    return f"nearest is {nearest} (of {choices})" if nearest else f"choose one of {choices}"


def is_secret(name: str) -> bool:
    """Whether text of this name must not be shown (api_key, hf_token; not tokenizer, max_num_batched_tokens)."""
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).replace("-", "_").lower()
    return _SECRET_WORDS.search(snake) is not None and _VOCABULARY.search(snake) is None


def is_secret_value(value: str) -> bool:
    """Whether text has the form of a secret: a hub's or an API's key, a URL with a password."""
    return _SECRET_VALUE.match(value) is not None or re.search(r"\w://[^/\s:@]+:[^/\s@]+@", value) is not None


def mask(value: Any, *, secret: bool = False) -> Any:
    """`value` with all text under secret names masked, at any depth.

    Args:
        secret: the value itself has a secret name.
    """
    if isinstance(value, dict):
        return {key: mask(entry, secret=secret or is_secret(key)) for key, entry in value.items()}
    if isinstance(value, list):
        return [mask(entry, secret=secret) for entry in value]
    return MASK if isinstance(value, str) and (secret or is_secret_value(value)) else value
