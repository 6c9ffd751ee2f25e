"""The questions that load clients share."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer

from benchmarks.questions import make_questions, write_questions
from raylaunch.bench.prompts import SizedPrompt, read_questions
from raylaunch.engine.rehearsal import standin_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in's folder, with its tokenizer."""
    return standin_model.write_standin(
        tmp_path_factory.mktemp("model"), standin_model.Shape(heads=8, kv_heads=8, layers=1)
    )


def test_questions_are_of_the_length_asked_for_and_all_differ(model: Path) -> None:
    """Counted by the tokenizer itself; another seed asks other questions."""
    questions = make_questions(model, count=50, tokens=64, answer_tokens=(5, 9), seed=1)
    reads = Tokenizer.from_file(str(model / "tokenizer.json"))
    assert {len(reads.encode(question.prompt).ids) for question in questions} == {64}
    assert len({question.prompt[:32] for question in questions}) == 50
    assert {question.output_tokens for question in questions} == {5, 6, 7, 8, 9}
    assert all(len(reads.encode(question.answer).ids) == question.output_tokens for question in questions)
    assert questions == make_questions(model, count=50, tokens=64, answer_tokens=(5, 9), seed=1)
    others = make_questions(model, count=50, tokens=64, answer_tokens=(5, 9), seed=2)
    assert not {question.prompt for question in questions} & {question.prompt for question in others}


def test_raylaunch_bench_reads_them_as_they_are(tmp_path: Path, model: Path) -> None:
    """In their order, each with its answer's length."""
    questions = make_questions(model, count=3, tokens=16, answer_tokens=(8, 8), seed=0)
    assert read_questions(write_questions(tmp_path / "asked.json", questions)) == [
        SizedPrompt(question.prompt, 8) for question in questions
    ]
