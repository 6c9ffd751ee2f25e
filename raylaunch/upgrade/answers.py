"""Fixed questions, and how likely an engine finds the answers that another one gave.

A changed engine rarely gives the same words: kernels and batches alone move a greedy answer. So the old answers are
scored by both engines, and the new one may not find them less likely than the old engine's own scatter allows.
"""

import statistics
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from raylaunch.bench.target import Target

QUESTIONS = (
    "The capital of France is",
    "Water boils at a temperature of",
    "def fibonacci(n):\n",
    "The three primary colours are",
    "中国的首都是",
    "Once upon a time, in a small village,",
)
_ANSWER_TOKENS = 32
_LEAST_THRESHOLD = 0.2
"""Nats a token. Another quantization of the same weights costs 0.01 to 0.1, wrong weights 3 to 10."""
_SCATTERS = 4.0


@dataclass(frozen=True)
class Answer:
    """What the old engine answered."""

    question: str
    text: str
    tokens: int


def collect_answers(target: Target) -> tuple[Answer, ...]:
    """Ask the fixed questions, greedily, one after the other.

    Raises:
        BenchError: no answer, or the key is refused.
        RequestError: the server refused a request.
    """
    answers = []
    for question in QUESTIONS:
        body = {"model": target.model, "prompt": question, "max_tokens": _ANSWER_TOKENS, "temperature": 0}
        given = target.ask("/v1/completions", body)
        answers.append(Answer(question, given["choices"][0]["text"], given["usage"]["completion_tokens"]))
    return tuple(answers)


def score_answers(target: Target, answers: Sequence[Answer], *, at_once: int = 1) -> tuple[float, ...]:
    """The mean log-probability of each answer's tokens under the engine that serves now, in nats."""
    with ThreadPoolExecutor(at_once) as pool:
        return tuple(pool.map(lambda answer: _score(target, answer), answers))


def _score(target: Target, answer: Answer) -> float:
    body = {
        "model": target.model, "prompt": answer.question + answer.text, "max_tokens": 1, "temperature": 0,
        "prompt_logprobs": 0,
    }  # fmt: skip
    scored = target.ask("/v1/completions", body)["choices"][0]["prompt_logprobs"]
    of_answer = [entry for entry in scored[-max(1, answer.tokens) :] if entry]
    return statistics.mean(float(next(iter(entry.values()))["logprob"]) for entry in of_answer)


def find_threshold(first: Sequence[float], second: Sequence[float]) -> float:
    """What the new engine's mean may lie below the old one's: four times the old engine's own scatter, at least 0.2.

    Args:
        first, second: the old engine's scores of the same answers, one at a time and all at once.
    """
    scatter = max(abs(one - other) for one, other in zip(first, second, strict=True))
    return max(_LEAST_THRESHOLD, _SCATTERS * scatter)
