"""How several of vLLM's clients offer one load, and how their results become one."""

import json
from pathlib import Path

import pytest

from benchmarks import vllm_peer


def test_parts_make_the_whole() -> None:
    """No request is lost or asked twice, and no part is a burden."""
    for total, parts in ((500, 4), (7, 3), (3, 3)):
        shares = [vllm_peer.share_out(total, parts, number) for number in range(parts)]
        assert sum(shares) == total
        assert max(shares) - min(shares) <= 1


def write_result(path: Path, start_s: float, first_s: float, gap_s: float) -> Path:
    """What `vllm bench serve --save-detailed` keeps of one request of five tokens."""
    reported = {"completed": 1, "total_input_tokens": 8, "output_lens": [5], "start_times": [start_s]}
    path.write_text(json.dumps(reported | {"ttfts": [first_s], "itls": [[gap_s] * 4]}))
    return path


def test_results_of_several_become_one(tmp_path: Path) -> None:
    """One begins at 10 s and ends at 11.5 s, the other begins at 10.2 s and ends at 12 s: 10 tokens in 2 s."""
    one = write_result(tmp_path / "0.json", 10.0, 0.3, 0.3)
    other = write_result(tmp_path / "1.json", 10.2, 0.2, 0.4)
    merged = vllm_peer.merge_vllm_results([one, other])
    assert merged["requests_ok"] == 2
    assert merged["input_tokens"] == 16
    assert merged["duration_s"] == pytest.approx(2.0)
    assert merged["output_tokens_per_s"] == pytest.approx(5.0)
    assert merged["ttft_mean_ms"] == pytest.approx(250)
    assert merged["tpot_p50_ms"] == pytest.approx(350)
