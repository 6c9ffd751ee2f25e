"""What an event of a stream says of its output: a token, or that the server gave the answer up."""

from collections.abc import Mapping
from typing import Any

FAILED = ("abort", "error")
"""Finish reasons of answers that vLLM or SGLang gave up."""


def has_output(choice: Mapping[str, Any]) -> bool:
    """Whether an event carries a token: a chat's opening ({"role": ...}) and the end of a stream often carry none.

    A token's text may be empty: part of a character, or an id that the tokenizer does not know.
    """
    delta = choice.get("delta")
    delta = delta if isinstance(delta, dict) else {}
    if choice.get("text") or any(value for key, value in delta.items() if key != "role"):
        return True
    is_opening_or_end = "role" in delta or bool(choice.get("finish_reason"))
    return not is_opening_or_end and ("text" in choice or delta.get("content") is not None)
