"""The stage of a start, by vLLM's own log."""

from pathlib import Path

import pytest

from raylaunch.explain.load_stage import read_stage

LOG = Path(__file__).parents[1] / "data" / "logs" / "kv-memory-taken.log"


def test_stages_of_a_recorded_log() -> None:
    """Line by line, the stages come in their order, with the files that were read."""
    seen: list[str] = []
    lines = LOG.read_text().splitlines()
    for end in range(len(lines)):
        stage = read_stage("\n".join(lines[:end]))
        if stage and stage not in seen:
            seen.append(stage)
    assert seen == [
        "starting the workers",
        "loading the weights",
        "loading the weights, 0 of 1 files",
        "loading the weights, 1 of 1 files",
        "weights loaded, measuring memory",
    ]


@pytest.mark.parametrize(
    ("line", "stage"),
    [
        ("Loading safetensors checkpoint shards:  36% Completed | 11/30 [", "loading the weights, 11 of 30 files"),
        ("INFO [core.py:1] GPU KV cache size: 1,024 tokens", "memory measured, warming up"),
        ("Capturing CUDA graphs (decode, FULL):  50%|█████     | 18/35 [00:02<", "capturing CUDA graphs, 18 of 35"),
        ("nothing of it", ""),
    ],
)  # fmt: skip
def test_stage_of_a_line(line: str, stage: str) -> None:
    assert read_stage(f"INFO Starting to load model x\n{line}\n" if stage else line) == stage
