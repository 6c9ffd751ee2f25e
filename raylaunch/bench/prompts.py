"""What is asked: questions of our own or from a file, or synthetic prompts of a given length; as request bodies."""

import importlib.resources
import json
import random
import urllib.error
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raylaunch.bench.target import Target, try_request
from raylaunch.errors import BenchError

PATHS = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}
MAX_BODIES = 8192
_MAX_BYTES = 96 << 20
_TEXT_FIELDS = ("question", "prompt", "text", "input", "instruction")
_WORDS = """river stone window garden copper lantern market winter pencil bridge forest engine harbor velvet mirror
island pepper ladder canvas meadow silver thunder basket candle orchard compass saddle feather granite violin""".split()  # noqa: SIM905

Prompt = str | list[int] | list[dict[str, Any]]
"""Text, token ids, or chat messages."""


@dataclass(frozen=True)
class Asking:
    """How prompts are asked."""

    api: str = "chat"
    """"chat" or "completions"."""
    stream: bool = True
    max_tokens: int = 256
    exact: bool = False
    """Whether the server is to go on to max_tokens whatever the model says (vLLM's ignore_eos)."""
    temperature: float | None = None
    """None leaves it to the server."""

    @property
    def path(self) -> str:
        """Where requests go."""
        return PATHS[self.api]

    def make_body(self, model: str, prompt: Prompt) -> bytes:
        """One request's body."""
        fields: dict[str, Any] = {"model": model}
        if self.api == "completions":
            fields["prompt"] = join_messages(prompt) if isinstance(prompt, list) and _is_messages(prompt) else prompt
        else:
            fields["messages"] = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        fields["max_tokens"] = self.max_tokens
        if self.temperature is not None:
            fields["temperature"] = self.temperature
        if self.exact:
            fields["ignore_eos"] = True
        fields["stream"] = self.stream
        if self.stream:
            fields["stream_options"] = {"include_usage": True}
        return json.dumps(fields, ensure_ascii=False).encode()

    def make_bodies(self, model: str, prompts: Sequence[Prompt]) -> tuple[bytes, ...]:
        """All bodies, in order."""
        return tuple(self.make_body(model, prompt) for prompt in prompts)


def _is_messages(prompt: Sequence[Any]) -> bool:
    return bool(prompt) and isinstance(prompt[0], dict)


def join_messages(prompt: Sequence[Any]) -> str:
    """A conversation as plain text, for completions."""
    return "\n".join(str(message.get("content", "")) for message in prompt)


def list_own_questions() -> list[Prompt]:
    """The 500 questions that come with raylaunch, Chinese and English in turn."""
    text = (importlib.resources.files("raylaunch.data") / "questions.jsonl").read_text(encoding="utf-8")
    return [json.loads(line)["question"] for line in text.splitlines()]


def read_questions(path: Path) -> list[Prompt]:
    """Questions of a file: JSONL (a string, or an object with question, prompt, text or messages) or ShareGPT's JSON.

    Raises:
        BenchError: it cannot be read, or no question is in it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BenchError(f"{path} cannot be read: {error}", fix="name a JSONL or ShareGPT file in UTF-8") from error
    entries: list[tuple[int, Any]]
    try:
        if text.lstrip().startswith("["):
            entries = list(enumerate(json.loads(text), start=1))
        else:
            lines = enumerate(text.splitlines(), start=1)
            entries = [(number, json.loads(line)) for number, line in lines if line.strip()]
    except ValueError as error:
        raise BenchError(f"{path} is neither JSON nor JSONL: {error}", fix="one JSON value a line") from error
    prompts = [prompt for _, entry in entries if (prompt := _read_entry(entry)) is not None]
    if not prompts:
        raise BenchError(
            f"no question in {path} ({len(entries)} entries)",
            fix='each line as {"question": "..."}, {"messages": [...]} or ShareGPT\'s {"conversations": [...]}',
        )
    return prompts


def _read_entry(entry: Any) -> Prompt | None:
    if isinstance(entry, str):
        return entry or None
    if not isinstance(entry, dict):
        return None
    if isinstance(entry.get("messages"), list) and entry["messages"]:
        return list(entry["messages"])
    turns = entry.get("conversations")
    if isinstance(turns, list):
        return next((str(turn["value"]) for turn in turns if turn.get("from") in ("human", "user")), None)
    return next((entry[name] for name in _TEXT_FIELDS if isinstance(entry.get(name), str) and entry[name]), None)


def make_synthetic(target: Target, asking: Asking, *, input_tokens: int, count: int, seed: int) -> list[Prompt]:
    """Random prompts of `input_tokens` tokens, each different, so that no prefix cache answers them.

    As token ids where the server tells some (vLLM's /tokenize) and completions are asked: then the length is exact.
    Elsewhere random words, their number set by what one request of them counts (its usage); the server's usage tells
    in the result what it came to.
    """
    draw = random.Random(seed)
    count = max(1, min(count, MAX_BODIES, _MAX_BYTES // (7 * input_tokens)))
    if asking.api == "completions" and (pool := _find_token_ids(target)):
        return [draw.choices(pool, k=input_tokens) for _ in range(count)]
    words = _count_words(target, asking, input_tokens)
    return [" ".join(draw.choices(_WORDS, k=words)) for _ in range(count)]


def _find_token_ids(target: Target) -> list[int] | None:
    """Token ids of common words, from a vLLM server."""
    try:
        answer = target.ask(
            "/tokenize", {"model": target.model, "prompt": " ".join(_WORDS), "add_special_tokens": False}
        )
        return sorted(set(answer["tokens"])) or None
    except (urllib.error.HTTPError, KeyError, TypeError):
        return None


def _count_words(target: Target, asking: Asking, input_tokens: int) -> int:
    """Words that come to about `input_tokens` tokens with this model and its chat template."""
    counted = [_count_prompt_tokens(target, asking, words) for words in (8, 72)]
    if None in counted or counted[1] == counted[0]:  # a server that tells no usage: a word is about 1.3 tokens
        return max(1, round(input_tokens / 1.3))
    few, many = (float(value or 0) for value in counted)
    each = (many - few) / 64
    return max(1, round((input_tokens - (few - 8 * each)) / each))


def _count_prompt_tokens(target: Target, asking: Asking, words: int) -> int | None:
    text = " ".join((_WORDS * (words // len(_WORDS) + 1))[:words])
    usage = try_request(target, asking.path, asking.make_body(target.model, text)).get("usage") or {}
    return usage.get("prompt_tokens")
