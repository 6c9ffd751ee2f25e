"""Synthetic prompts: random words that are as many tokens as asked for, by the server's own count."""

import random
from collections.abc import Callable, Mapping
from typing import TypeVar

from raylaunch.base.http_client import RequestError
from raylaunch.bench.prompts import Prompt, RequestOptions
from raylaunch.bench.target import Target, try_request

MAX_BODIES = 8192
_MAX_BYTES = 96 << 20
_BYTES_PER_TOKEN = 7
"""In a body: a word and its space, or an id, its comma and its space."""
_WORDS = """river stone window garden copper lantern market winter pencil bridge forest engine harbor velvet mirror
island pepper ladder canvas meadow silver thunder basket candle orchard compass saddle feather granite violin""".split()  # noqa: SIM905
_FILLERS = tuple("abcdiost")
"""Of one token with some tokenizers that make more of each word: they fill what is left."""
_CHECKED = 3
"""Complete prompts that are counted before a load."""

_Drawn = TypeVar("_Drawn", str, tuple[int, ...])


def make_synthetic(
    target: Target, request: RequestOptions, *, input_tokens: int, count: int, seed: int
) -> tuple[list[Prompt], str]:
    """Random prompts of `input_tokens` tokens, each different, so that no prefix cache answers them.

    Completions of a server that counts tokens (vLLM's /tokenize) are sent as text of exactly that length, since text is
    what clients send, and to tokenize it is a good part of the server's work. Where no text comes out exact, they are
    asked in token ids. Elsewhere random words, their number set by what one request of them counts (its usage); the
    server's usage in the result shows the real number.

    Returns:
        The prompts, and a description of them. There are fewer than `count` where they would take too much memory, or
        where so few tokens make no more different ones.
    """
    draw = random.Random(seed)
    count = max(1, min(count, MAX_BODIES, _MAX_BYTES // (_BYTES_PER_TOKEN * input_tokens)))
    if request.api == "completions" and (pool := sorted(set(_tokenize(target, " ".join(_WORDS), special=False)))):
        if texts := _make_exact_texts(target, draw, input_tokens, count):
            return [*texts], f"synthetic text, {input_tokens} tokens"
        ids = _draw_different(lambda: tuple(draw.choices(pool, k=input_tokens)), count)
        return [list(one) for one in ids], f"synthetic token ids, {input_tokens} tokens"
    words = _count_words(target, request, input_tokens)
    texts = _draw_different(lambda: " ".join(draw.choices(_WORDS, k=words)), count)
    return [*texts], f"synthetic text, about {input_tokens} tokens"


def _draw_different(draw_one: Callable[[], _Drawn], count: int) -> list[_Drawn]:
    """`count` prompts of which no two are alike, or as many as come of twice as many draws."""
    drawn: dict[_Drawn, None] = {}
    for _ in range(2 * count):
        drawn[draw_one()] = None
        if len(drawn) == count:
            break
    return list(drawn)


def _tokenize(target: Target, text: str, *, special: bool) -> list[int]:
    """Token ids of a text by vLLM's /tokenize; none where the server has no such endpoint.

    Args:
        special: with the special tokens (BOS) that the server adds to a text, and not to token ids.
    """
    try:
        answer = target.ask("/tokenize", {"model": target.model, "prompt": text, "add_special_tokens": special})
        return list(answer["tokens"])
    except (RequestError, KeyError, TypeError):
        return []


def _make_exact_texts(target: Target, draw: random.Random, tokens: int, count: int) -> list[str] | None:
    """Different texts that the server counts as `tokens` tokens; None where its tokenizer makes none of these words."""
    counts, beside = _measure_words(target)
    if min(counts.values()) != 1 or beside >= tokens:
        return None
    texts = _draw_different(lambda: _draw_text(draw, counts, tokens - beside), count)
    if any(len(_tokenize(target, text, special=True)) != tokens for text in texts[:_CHECKED]):
        return None
    return texts


def _measure_words(target: Target) -> tuple[dict[str, int], int]:
    """Tokens of each word with its space, and those that a text has beside its words' (BOS, a mark of its beginning).

    Each word is counted behind another: some tokenizers mark a text's beginning by a token of its own.
    """
    first = f" {_WORDS[0]}"
    alone = len(_tokenize(target, first, special=True))
    counts = {word: len(_tokenize(target, f"{first} {word}", special=True)) - alone for word in (*_WORDS, *_FILLERS)}
    return counts, alone - counts[_WORDS[0]]


def _draw_text(draw: random.Random, counts: Mapping[str, int], tokens: int) -> str:
    """Random words, a space before each, whose counts add up to `tokens`; a word of one token must be among them."""
    most = max(counts.values())
    words: list[str] = []
    left = tokens
    while sure := left // most:  # so many fit, whichever they are
        drawn = draw.choices(_WORDS, k=sure)
        words += drawn
        left -= sum(map(counts.__getitem__, drawn))
    while left:
        words.append(draw.choice([word for word, needed in counts.items() if needed <= left]))
        left -= counts[words[-1]]
    return " " + " ".join(words)


def _count_words(target: Target, request: RequestOptions, input_tokens: int) -> int:
    """Words that come to about `input_tokens` tokens with this model and its chat template."""
    counted = [_count_prompt_tokens(target, request, words) for words in (8, 72)]
    if None in counted or counted[1] == counted[0]:  # a server without usage: a word is about 1.3 tokens
        return max(1, round(input_tokens / 1.3))
    few, many = (float(value or 0) for value in counted)
    each = (many - few) / 64
    return max(1, round((input_tokens - (few - 8 * each)) / each))


def _count_prompt_tokens(target: Target, request: RequestOptions, words: int) -> int | None:
    text = " ".join((_WORDS * (words // len(_WORDS) + 1))[:words])
    usage = try_request(target, request.path, request.make_body(target.model, text)).get("usage") or {}
    return usage.get("prompt_tokens")
