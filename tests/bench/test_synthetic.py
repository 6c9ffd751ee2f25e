"""Synthetic prompts, counted by real tokenizers of several kinds behind a real server."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from raylaunch.bench import synthetic
from raylaunch.bench.prompts import Prompt, RequestOptions
from raylaunch.bench.target import Target
from tests.bench import odd_server


@pytest.fixture
def plain(tiny_llama: Path) -> Tokenizer:
    """The stand-in's: pieces of words, a space with the word that follows it, no special tokens."""
    return Tokenizer.from_file(str(tiny_llama / "tokenizer.json"))


def add_bos(tokenizer: Tokenizer) -> Tokenizer:
    """As Llama 3's: a token in front of every text."""
    bos = "<|endoftext|>"
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, 0)])
    return tokenizer


def make_marking() -> Tokenizer:
    """As Llama 2's: BOS, and a mark where a text begins, a token of its own in front of a space."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    train(tokenizer, ["a river and a stone", "the garden of the harbor", "i see a violin"])
    return add_bos(tokenizer)


def make_spelling() -> Tokenizer:
    """A token for each letter and each space: no word is one token."""
    return train(Tokenizer(models.BPE()), [])


def train(tokenizer: Tokenizer, texts: list[str]) -> Tokenizer:
    letters = ["▁", " ", *map(chr, range(ord("a"), ord("z") + 1))]
    trainer = trainers.BpeTrainer(
        special_tokens=["<|endoftext|>"], initial_alphabet=letters, vocab_size=400, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def make(
    tokenizer: Tokenizer | None, tokens: int, count: int = 20, *, seed: int = 0, api: str = "completions"
) -> tuple[list[Prompt], str]:
    """What a server with this tokenizer is to be asked."""
    with odd_server.serve(tokenizer=tokenizer) as server:
        target = Target(server.url, "odd")
        return synthetic.make_synthetic(target, RequestOptions(api, 256), input_tokens=tokens, count=count, seed=seed)


def count_text(tokenizer: Tokenizer, prompts: list[Prompt]) -> list[int]:
    """Tokens of each as the server takes it; all must be text."""
    assert all(isinstance(prompt, str) for prompt in prompts)
    return [len(tokenizer.encode(prompt).ids) for prompt in prompts]


def assert_ids(prompts: list[Prompt], tokens: int) -> None:
    """Each of so many token ids, no two alike."""
    assert all(isinstance(prompt, list) and len(prompt) == tokens for prompt in prompts)
    assert len({tuple(map(str, prompt)) for prompt in prompts}) == len(prompts) == 20


@pytest.mark.parametrize("tokens", [8, 9, 64, 257, 3000])
def test_text_of_exact_length(plain: Tokenizer, tokens: int) -> None:
    """Every prompt, not only those that were checked; all differ; a seed repeats them, and another does not."""
    prompts, reported = make(plain, tokens)
    assert count_text(plain, prompts) == [tokens] * 20
    assert reported == f"synthetic text, {tokens} tokens"
    assert len({*map(str, prompts)}) == 20
    assert make(plain, tokens)[0] == prompts
    assert make(plain, tokens, seed=1)[0] != prompts


@pytest.mark.parametrize("tokens", [9, 64, 257])
def test_special_tokens_of_a_text_count(plain: Tokenizer, tokens: int) -> None:
    """The server adds BOS to a text: its own count is met, and the words are one token less."""
    tokenizer = add_bos(plain)
    prompts, _ = make(tokenizer, tokens)
    assert count_text(tokenizer, prompts) == [tokens] * 20
    assert len(tokenizer.encode(prompts[0], add_special_tokens=False).ids) == tokens - 1


@pytest.mark.parametrize("tokens", [9, 64, 257])
def test_a_mark_of_the_beginning_counts(tokens: int) -> None:
    """A word alone is more tokens than the same word behind another."""
    tokenizer = make_marking()
    assert tokenizer.encode(" a a").tokens == ["<|endoftext|>", "▁", "▁a", "▁a"]
    assert count_text(tokenizer, make(tokenizer, tokens)[0]) == [tokens] * 20


def test_tokens_that_span_words_are_found_out(plain: Tokenizer) -> None:
    """The words' counts do not add up, which only a complete prompt shows: token ids then, exact all the same."""
    words = {word for prompt in make(plain, 500)[0] for word in str(prompt).split()} - {"river"}
    plain.add_tokens([f"{one} {other}" for one in sorted(words) for other in sorted(words)])
    prompts, reported = make(plain, 100)
    assert reported == "synthetic token ids, 100 tokens"
    assert_ids(prompts, 100)


def test_lengths_that_no_words_fill(plain: Tokenizer) -> None:
    """No word of one token; or nothing left beside the special ones. Token ids get no special ones."""
    assert_ids(make(make_spelling(), 64)[0], 64)
    prompts, reported = make(add_bos(plain), 1)
    assert {len(prompt) for prompt in prompts} == {1}
    assert not any(isinstance(prompt, str) for prompt in prompts)
    assert reported == "synthetic token ids, 1 tokens"


def test_short_prompts_are_fewer_rather_than_alike(plain: Tokenizer) -> None:
    """Two words of the stand-in's are one token; the result tells how many distinct prompts there were."""
    prompts, _ = make(plain, 1, count=300)
    assert sorted(map(str, prompts)) == [" a", " t"]


def test_long_prompts_are_fewer_rather_than_too_big_for_memory(plain: Tokenizer) -> None:
    prompts, _ = make(plain, 200_000, count=500)
    assert 50 < len(prompts) < 500
    assert sum(map(len, prompts)) < 100 << 20
    assert len(make(plain, 64, count=100_000)[0]) == synthetic.MAX_BODIES


def test_words_where_the_server_tells_no_tokens(plain: Tokenizer) -> None:
    """Completions without /tokenize, and chat with it: as many words as come near to it by the server's usage."""
    prompts, reported = make(None, 30)
    assert (len({*map(str, prompts)}), reported) == (20, "synthetic text, about 30 tokens")
    prompts, reported = make(plain, 64, api="chat")
    assert reported == "synthetic text, about 64 tokens"
    assert all(abs(counted - 64) <= 12 for counted in count_text(plain, prompts))
