"""The same questions for several load clients: text of exactly so many tokens, in ShareGPT's format.

Who draws prompts of its own gives the server other work than its neighbour does: token ids need no tokenizing, and a
small vocabulary repeats itself.
"""

import json
import random
import string
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_WORD_LETTERS = (2, 7)
_TRIES = 100


def make_questions(tokenizer: Path, *, count: int, tokens: int, seed: int) -> list[str]:
    """Random words, `count` different texts of `tokens` tokens each.

    Args:
        tokenizer: a model's folder, with its tokenizer.json.
        seed: the same one draws the same questions.
    """
    from tokenizers import Tokenizer

    reads = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    draw = random.Random(seed)
    return [_make_question(reads, tokens, draw) for _ in range(count)]


def _make_question(reads: "Tokenizer", tokens: int, draw: random.Random) -> str:
    """Words cut where the last token ends; drawn again where the cut text reads otherwise."""
    for _ in range(_TRIES):
        words = ["".join(draw.choices(string.ascii_lowercase, k=draw.randint(*_WORD_LETTERS))) for _ in range(tokens)]
        text = " ".join(words)
        text = text[: reads.encode(text, add_special_tokens=False).offsets[tokens - 1][1]]
        if len(reads.encode(text, add_special_tokens=False).ids) == tokens:
            return text
    raise SystemExit(f"no text of exactly {tokens} tokens was found in {_TRIES} tries")


def write_questions(path: Path, questions: list[str]) -> Path:
    """As ShareGPT's JSON, which `raylaunch bench --questions` and `vllm bench serve` both read."""
    turns = [[{"from": "human", "value": question}, {"from": "gpt", "value": "."}] for question in questions]
    path.write_text(json.dumps([{"conversations": turn} for turn in turns]))
    return path
