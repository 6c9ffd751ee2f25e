"""How far a starting engine is, by the end of its log. Formats seen in vLLM 0.32."""

import re
from collections.abc import Callable, Sequence

_STAGES: Sequence[tuple[str, Callable[["re.Match[str]"], str]]] = (
    (r"Initializing a V1 LLM engine", lambda _: "starting the workers"),
    (r"Starting to load model", lambda _: "loading the weights"),
    (
        r"Loading \S+ checkpoint shards:\s+\d+% Completed \| (\d+)/(\d+)",
        lambda found: f"loading the weights, {found[1]} of {found[2]} files",
    ),
    (r"(?:Model loading|Loading weights) took", lambda _: "weights loaded, measuring memory"),
    (r"torch\.compile takes|Dynamo bytecode transform|Compiling a graph", lambda _: "compiling"),
    (r"KV cache size", lambda _: "memory measured, warming up"),
    (
        r"Capturing CUDA graphs.*?:\s+\d+%\|[^|]*\| (\d+)/(\d+)",
        lambda found: f"capturing CUDA graphs, {found[1]} of {found[2]}",
    ),
    (r"init engine .*took", lambda _: "engine started, waiting for the server"),
)
"""In the order of a start: pattern in the log -> its text."""


def read_stage(log: str) -> str:
    """The stage that the last line with one names; "" where no line does.

    Several workers write to one log: a stage that another worker has passed counts as passed.
    """
    reached = ""
    for pattern, describe in _STAGES:
        found = None
        for found in re.finditer(pattern, log):  # noqa: B007 (the last one is wanted)
            pass
        if found is not None:
            reached = describe(found)
    return reached
