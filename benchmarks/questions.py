"""The same questions for several load clients: texts of exactly so many tokens, and answers, in ShareGPT's format.

Who draws prompts of its own gives the server other work than its neighbour does: token ids need no tokenizing, and a
small vocabulary repeats itself.
"""

import json
import random
import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_WORD_LETTERS = (2, 7)
_TRIES = 100


@dataclass(frozen=True)
class Question:
    """A prompt and its recorded answer, which says how long the one to be had is."""

    prompt: str
    answer: str
    output_tokens: int


def make_questions(
    tokenizer: Path, *, count: int, tokens: int, answer_tokens: tuple[int, int], seed: int
) -> list[Question]:
    """Random words, `count` different texts of `tokens` tokens each.

    Args:
        tokenizer: a model's folder, with its tokenizer.json.
        answer_tokens: shortest and longest answer; all lengths between are equally likely. vLLM's client leaves
            those under 4 tokens out.
        seed: the same one draws the same questions.
    """
    from tokenizers import Tokenizer

    reads = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    draw = random.Random(seed)
    lengths = [draw.randint(*answer_tokens) for _ in range(count)]
    return [Question(_make_text(reads, tokens, draw), _make_text(reads, length, draw), length) for length in lengths]


def _make_text(reads: "Tokenizer", tokens: int, draw: random.Random) -> str:
    """Words cut where the last token ends; drawn again where the cut text reads otherwise."""
    for _ in range(_TRIES):
        words = ["".join(draw.choices(string.ascii_lowercase, k=draw.randint(*_WORD_LETTERS))) for _ in range(tokens)]
        text = " ".join(words)
        text = text[: reads.encode(text, add_special_tokens=False).offsets[tokens - 1][1]]
        if len(reads.encode(text, add_special_tokens=False).ids) == tokens:
            return text
    raise SystemExit(f"no text of exactly {tokens} tokens was found in {_TRIES} tries")


def write_questions(path: Path, questions: Sequence[Question]) -> Path:
    """As ShareGPT's JSON: `vllm bench serve` counts the tokens of an answer, `raylaunch bench` reads their number."""
    entries = [
        {
            "conversations": [{"from": "human", "value": one.prompt}, {"from": "gpt", "value": one.answer}],
            "output_tokens": one.output_tokens,
        }
        for one in questions
    ]
    path.write_text(json.dumps(entries))
    return path
