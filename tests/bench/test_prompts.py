"""Questions of our own, of files, and synthetic ones; and the bodies they become."""

import json
from pathlib import Path

import pytest

from raylaunch.base.errors import BenchError
from raylaunch.bench import prompts


def test_own_questions() -> None:
    """500, no two alike, half Chinese, in turn."""
    questions = [str(one) for one in prompts.list_own_questions()]
    assert len(questions) == len(set(questions)) == 500
    chinese = [any("\u4e00" <= letter <= "\u9fff" for letter in one) for one in questions]
    assert chinese == [True, False] * 250
    assert all(len(one) > 12 for one in questions)
    assert len({one[:12] for one in questions}) > 150


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('"Who?"\n\n{"question": "Why?"}\n{"prompt": "How?", "x": 1}\n', ["Who?", "Why?", "How?"]),
        ('{"messages": [{"role": "user", "content": "Hi"}]}', [[{"role": "user", "content": "Hi"}]]),
        ('{"messages": [{"role": "user"}]}\n{"instruction": "do", "input": "x"}', ["do\nx"]),
        (
            '{"custom_id": "1", "body": {"messages": [{"role": "user", "content": "Hi"}]}}',
            [[{"role": "user", "content": "Hi"}]],
        ),
        ('[{"conversations": [{"role": "user", "content": "Hi"}]}]', [[{"role": "user", "content": "Hi"}]]),
        ('{"instruction": "do", "input": ""}\n{"instruction": " ", "input": "x"}', ["do", "x"]),
        ('[{"conversations": [{"from": "gpt", "value": "a"}, {"from": "human", "value": "b"}]}, {"x": 1}]', ["b"]),
        ('{"question": "你是谁"}', ["你是谁"]),
        ('{"prompt": "How?", "output_tokens": 7}\n"Who?"', [prompts.SizedPrompt("How?", 7), "Who?"]),
    ],
)
def test_files(tmp_path: Path, content: str, expected: list[object]) -> None:
    file = tmp_path / "questions"
    file.write_text(content, encoding="utf-8")
    assert prompts.read_questions(file) == expected


@pytest.mark.parametrize("content", ["", "{not json}\n", '{"answer": "x"}\n', "[]", "\udcff"])
def test_files_without_a_question(tmp_path: Path, content: str) -> None:
    file = tmp_path / "questions"
    file.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(BenchError, match="questions"):
        prompts.read_questions(file)


@pytest.mark.parametrize("length", ["0", "-3", "7.5", '"7"', "true"])
def test_answers_of_no_length(tmp_path: Path, length: str) -> None:
    """Reported with its entry, before anything is asked."""
    file = tmp_path / "questions.jsonl"
    file.write_text(f'"Who?"\n{{"prompt": "How?", "output_tokens": {length}}}')
    with pytest.raises(BenchError, match=r"questions.jsonl, line 2: output_tokens is"):
        prompts.read_questions(file)


def test_lengths_of_their_own() -> None:
    """A prompt's own length is exact; one for all (--output-tokens) goes before it."""
    asked = [prompts.SizedPrompt("How?", 7), "Who?", prompts.SizedPrompt([1, 2], 90)]
    request = prompts.RequestOptions(api="completions", max_tokens=50)
    bodies = [json.loads(request.make_body("m", prompt)) for prompt in asked]
    assert [(body["prompt"], body["max_tokens"], body.get("ignore_eos")) for body in bodies] == [
        ("How?", 7, True), ("Who?", 50, None), ([1, 2], 90, True),
    ]  # fmt: skip
    assert request.find_own_lengths(asked) == [7, 90]
    for_all = prompts.RequestOptions(api="completions", max_tokens=50, exact=True)
    assert {json.loads(for_all.make_body("m", prompt))["max_tokens"] for prompt in asked} == {50}
    assert for_all.find_own_lengths(asked) is request.find_own_lengths(["Who?"]) is None


def test_bodies() -> None:
    """Chat wraps text in a message; completions take text or token ids; exact answers ask vLLM to ignore the end."""
    chat = json.loads(prompts.RequestOptions("chat", max_tokens=9).make_body("m", "Hi"))
    assert chat == {
        "model": "m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9, "stream": True,
        "stream_options": {"include_usage": True},
    }  # fmt: skip
    request = prompts.RequestOptions(api="completions", max_tokens=256, stream=False, exact=True, temperature=0.0)
    whole = json.loads(request.make_body("m", [1, 2]))
    assert whole == {
        "model": "m", "prompt": [1, 2], "max_tokens": 256, "temperature": 0.0, "ignore_eos": True, "stream": False
    }  # fmt: skip
    assert json.loads(request.make_body("m", [{"role": "user", "content": "Hi"}]))["prompt"] == "Hi"


def test_bad_entries_are_counted_with_their_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A byte order mark, U+2028 in a text, no JSON, no value, half a pair: the rest is asked."""
    file = tmp_path / "questions.jsonl"
    lines = [
        '\ufeff{"question":"a\u2028b"}',
        "{oops",
        '{"question":"\\ud800"}',
        '{"other":1}',
        "",
        '{"question":"c"}\r',
    ]
    file.write_text("\n".join(lines), encoding="utf-8", newline="")
    assert prompts.read_questions(file) == ["a\u2028b", "c"]
    told = capsys.readouterr().err
    assert all(f"line {number}: " in " ".join(told.split()) for number in (2, 3, 4))
    good = '{"conversations":[null,{"from":"human","value":"x"}]}'
    file.write_text('[{"conversations":[{"from":"human","text":"hi"}]},' + good + "]")
    assert prompts.read_questions(file) == ["x"]
    for empty in ("", "\n\n", "[]", '[{"conversations":[{"from":"human"}]}]'):
        file.write_text(empty)
        with pytest.raises(BenchError, match="no question in"):
            prompts.read_questions(file)
