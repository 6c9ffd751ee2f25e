"""Prompts (raylaunch's own questions, or those of a file) and the request bodies made of them."""

import importlib.resources
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raylaunch.base import console
from raylaunch.base.errors import BenchError
from raylaunch.base.text import is_encodable

PATHS = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}
_TEXT_FIELDS = ("question", "prompt", "text", "instruction", "input")

Prompt = str | list[int] | list[dict[str, Any]]
"""Text, token ids, or chat messages."""


@dataclass(frozen=True)
class SizedPrompt:
    """A prompt with the length of its own answer, as recorded ones have."""

    prompt: Prompt
    output_tokens: int


LoadPrompt = Prompt | SizedPrompt
"""One request's prompt."""


@dataclass(frozen=True)
class RequestOptions:
    """What every request has besides its prompt."""

    api: str
    """"chat" or "completions"."""
    max_tokens: int
    stream: bool = True
    exact: bool = False
    """Whether the server goes on to max_tokens past the model's end of text (vLLM's ignore_eos)."""
    temperature: float | None = None
    """None leaves it to the server."""

    @property
    def path(self) -> str:
        """Where requests go."""
        return PATHS[self.api]

    def make_body(self, model: str, load_prompt: LoadPrompt) -> bytes:
        """One request's body; an exact length for all overrides a prompt's own."""
        prompt, max_tokens, exact = load_prompt, self.max_tokens, self.exact
        if isinstance(prompt, SizedPrompt):
            if not exact:
                max_tokens, exact = prompt.output_tokens, True
            prompt = prompt.prompt
        fields: dict[str, object] = {"model": model}
        if self.api == "completions":
            fields["prompt"] = _to_text(prompt)
        else:
            fields["messages"] = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        fields["max_tokens"] = max_tokens
        if self.temperature is not None:
            fields["temperature"] = self.temperature
        if exact:
            fields["ignore_eos"] = True
        fields["stream"] = self.stream
        if self.stream:
            fields["stream_options"] = {"include_usage": True}
        return json.dumps(fields, ensure_ascii=False).encode()

    def find_own_lengths(self, prompts: Sequence[LoadPrompt]) -> list[int] | None:
        """Shortest and longest answer, in tokens, of those whose length is their prompt's; None where none is."""
        lengths = [prompt.output_tokens for prompt in prompts if isinstance(prompt, SizedPrompt)]
        return [min(lengths), max(lengths)] if lengths and not self.exact else None


def _to_text(prompt: Any) -> Any:
    """A conversation as plain text, for completions; other prompts as they are."""
    is_messages = isinstance(prompt, list) and prompt and isinstance(prompt[0], dict)
    return "\n".join(str(message.get("content", "")) for message in prompt) if is_messages else prompt


def list_own_questions() -> list[Prompt]:
    """The 500 questions that come with raylaunch, Chinese and English in turn."""
    text = (importlib.resources.files("raylaunch.data") / "questions.jsonl").read_text(encoding="utf-8")
    return [json.loads(line)["question"] for line in text.split("\n") if line]


def read_questions(path: Path) -> list[LoadPrompt]:
    """Questions of a file: JSONL (a string, or an object with question, prompt, text or messages) or ShareGPT's JSON.

    output_tokens in an object is the length of its answer, as in the files of vLLM's benchmark.

    Raises:
        BenchError: it cannot be read, has no question, or output_tokens is not a positive integer.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise BenchError(f"cannot read {path}: {reason}", fix="name a JSONL or ShareGPT file in UTF-8") from error
    is_list = text.lstrip().startswith("[")
    try:
        # Other line ends than \n (U+2028) may stand in a text.
        lines: list[Any] = json.loads(text) if is_list else text.split("\n")
    except (ValueError, RecursionError) as error:
        raise BenchError(f"{path} is neither JSON nor JSONL: {error}", fix="one JSON value a line") from error
    prompts: list[LoadPrompt] = []
    skipped: list[str] = []
    for number, line in enumerate(lines, start=1):
        where = f"{'entry' if is_list else 'line'} {number}"
        try:
            if is_list or line.strip():
                prompts.append(_read_prompt(line if is_list else json.loads(line), f"{path}, {where}"))
        except (ValueError, RecursionError) as error:
            skipped.append(f"{where}: {str(error)[:80]}")
    reasons = "; ".join(skipped[:5]) + ("; ..." if len(skipped) > 5 else "")
    if not prompts:
        raise BenchError(
            f"no question in {path}" + (f": {reasons}" if reasons else ": it is empty"),
            fix='each line as {"question": "..."}, {"messages": [...]} or ShareGPT\'s {"conversations": [...]}',
        )
    if skipped:
        console.say(f"warning: {path}: {len(skipped)} entries are no questions, skipped: {reasons}", style="yellow")
    return prompts


def _read_prompt(entry: Any, where: str) -> LoadPrompt:
    """The prompt of an entry.

    Raises:
        ValueError: it has none that can be sent.
    """
    prompt = _read_entry(entry)
    if prompt is None:
        raise ValueError("no question, prompt, text, messages or conversations with a value")
    if not is_encodable(json.dumps(prompt, ensure_ascii=False)):
        raise ValueError("half a pair (\\ud800), which is no text")
    return _read_length(entry, prompt, where)


def _read_entry(entry: Any) -> Prompt | None:
    if isinstance(entry, str):
        return entry or None
    if not isinstance(entry, dict):
        return None
    if isinstance(body := entry.get("body"), dict):  # a line of OpenAI's batch files
        return _read_entry(body)
    for messages in (entry.get("messages"), turns := entry.get("conversations")):
        if isinstance(messages, list) and messages and all(map(_is_message, messages)):
            return list(messages)
    if isinstance(turns, list):
        asked = [turn for turn in turns if isinstance(turn, dict) and turn.get("from") in ("human", "user")]
        return next((turn["value"] for turn in asked if isinstance(turn.get("value"), str) and turn["value"]), None)
    texts = [entry[name] for name in _TEXT_FIELDS if isinstance(entry.get(name), str) and entry[name].strip()]
    if texts and texts[0] == entry.get("instruction"):
        return "\n".join(texts)  # Alpaca's: an instruction, and the input that it is about
    return texts[0] if texts else None


def _is_message(message: Any) -> bool:
    return isinstance(message, dict) and "role" in message and bool({"content", "tool_calls"} & message.keys())


def _read_length(entry: Any, prompt: Prompt, where: str) -> LoadPrompt:
    length = entry.get("output_tokens") if isinstance(entry, dict) else None
    if length is None:
        return prompt
    if not isinstance(length, int) or isinstance(length, bool) or length < 1:
        raise BenchError(
            f"{where}: output_tokens is {length!r}", fix="give a number of tokens, 1 or more, or leave it out"
        )
    return SizedPrompt(prompt, length)
