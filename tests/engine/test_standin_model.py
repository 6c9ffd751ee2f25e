"""The stand-in model splits as the real one does, and is complete."""

import json
import struct
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from raylaunch.engine.rehearsal.standin_model import Shape, shrink, write_standin


@given(
    kv_heads=st.integers(1, 16), group=st.integers(1, 12), layers=st.integers(1, 130),
    tp=st.integers(1, 16), pp=st.integers(1, 8),
)  # fmt: skip
def test_shrunk_model_splits_over_tp_and_pp_as_the_real_one(
    kv_heads: int, group: int, layers: int, tp: int, pp: int
) -> None:
    """Heads and KV heads fit TP, and layers fit PP, in both or in neither."""
    real = Shape(kv_heads * group, kv_heads, layers)
    small = shrink(real, tp=tp, pp=pp)

    def fits(shape: Shape) -> tuple[bool, bool, bool, int]:
        kv_fits = shape.kv_heads % tp == 0 or tp % shape.kv_heads == 0
        return shape.heads % tp == 0, kv_fits, shape.layers >= pp, shape.layers % pp

    assert fits(small) == fits(real)
    assert small.layers <= real.layers
    assert small.heads <= real.heads


def test_written_model_is_complete_and_written_once(tmp_path: Path) -> None:
    """The safetensors file ends where its header says; a second call leaves it alone; another shape replaces it."""
    folder = write_standin(tmp_path, Shape(8, 4, 2))
    weights = folder / "model.safetensors"
    raw = weights.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    assert len(raw) == 8 + length + max(ends)
    assert header["model.layers.1.self_attn.k_proj.weight"]["shape"] == [4 * 32, 64]
    written = weights.stat().st_mtime_ns
    write_standin(tmp_path, Shape(8, 4, 2))
    assert weights.stat().st_mtime_ns == written
    write_standin(tmp_path, Shape(8, 4, 3))
    assert json.loads((folder / "config.json").read_text())["num_hidden_layers"] == 3
