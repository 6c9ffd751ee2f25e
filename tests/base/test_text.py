"""What counts as a secret, by name and by form."""

import pytest

from raylaunch.base import text


@pytest.mark.parametrize(
    "name", ["api_key", "hf_token", "awsSecretKey", "access_token", "HF_TOKEN", "DB_PASSWORD", "auth", "tokens"]
)
def test_names_of_secrets(name: str) -> None:
    assert text.is_secret(name)


@pytest.mark.parametrize(
    "name",
    ["max_num_batched_tokens", "enable_prompt_tokens_details", "return_tokens_as_token_ids", "tokenizer", "eos_token",
     "num_key_value_heads", "max_tokens", "key_cache_dtype", "pad_token_id"],
)  # fmt: skip
def test_names_that_are_no_secrets(name: str) -> None:
    assert not text.is_secret(name)


def test_values_with_the_form_of_a_secret_are_masked() -> None:
    """Whatever their names are."""
    for value in ("hf_" + "a" * 34, "sk-abcdefgh1234", "http://user:pw@proxy:3128"):
        assert text.mask({"x": [value]}) == {"x": [text.MASK]}
    assert text.mask({"x": "http://proxy:3128", "y": "sk"}) == {"x": "http://proxy:3128", "y": "sk"}
