"""The environment of a private Ray's nodes."""

import pytest

from raylaunch.cluster.private import make_environment


@pytest.mark.parametrize("value", ["", "-1", "NoDevFiles", "0", "GPU-1"])
def test_logical_gpus_need_no_real_ones(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """Ray refuses to start with more GPUs than CUDA_VISIBLE_DEVICES names; real GPUs are chosen with it."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.9:6379")
    logical = make_environment("127.0.0.2", {"A": "1", "CUDA_VISIBLE_DEVICES": value}, real_gpus=False)
    assert logical.keys().isdisjoint({"CUDA_VISIBLE_DEVICES", "RAY_ADDRESS"})
    assert (logical["VLLM_HOST_IP"], logical["A"]) == ("127.0.0.2", "1")
    assert make_environment("127.0.0.2", {}, real_gpus=True)["CUDA_VISIBLE_DEVICES"] == value
