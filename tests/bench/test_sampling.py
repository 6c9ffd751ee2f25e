"""What the engine's and the machines' samples become."""

import time

from raylaunch.bench.figures import EngineSummary, SampledEngine, SampledNode
from raylaunch.bench.sampling import LoadSampler, Moment, cut_moments
from raylaunch.bench.target import Target
from raylaunch.cluster.monitor_process import ChildMonitor
from raylaunch.engine.metrics import EngineFigures

NODE = SampledNode("a", 1.0, 2.0, None, None)


def figures(**values: float) -> EngineFigures:
    return EngineFigures(**({"running": 0, "waiting": 0, "kv_cache_use": 0.0} | values))  # type: ignore[arg-type]


def test_engine_over_a_run() -> None:
    """Only what was seen in the run; counters as what they grew by."""
    seen = [
        Moment(5.0, (), figures(running=99)),
        Moment(10.0, (), figures(running=1, queued=10, queued_s=1.0, prefix_queries=100, prefix_hits=10)),
        Moment(11.0, (NODE,), figures(running=8, waiting=3, kv_cache_use=0.5, queued=12)),
        Moment(12.0, (), figures(running=2, waiting=1, queued=20, queued_s=2.5, prefix_queries=300, prefix_hits=60)),
    ]
    samples, engine = cut_moments(seen, 10.0, 12.0)
    assert [sample.t_s for sample in samples] == [0.0, 1.0, 2.0]
    assert samples[1].nodes == (NODE,)
    assert engine == EngineSummary(
        running_max=8, waiting_max=3, waiting_mean=1.33, kv_cache_use_max=0.5, queue_ms_mean=150.0,
        prefix_cache_hit_share=0.25,
    )  # fmt: skip


def test_servers_that_tell_nothing() -> None:
    samples, engine = cut_moments([Moment(0.5, (), None)], 0.0, 1.0)
    assert engine == EngineSummary()
    assert samples[0].engine == SampledEngine()


def test_no_look_finds_nothing_new() -> None:
    """Every look has the machine, and none has the same sample twice: a chart of them has no gaps."""
    with LoadSampler(Target("http://127.0.0.1:9", "none"), ChildMonitor(None)) as sampler:
        time.sleep(6.0)
    assert len(sampler.moments) >= 4
    assert [len(moment.nodes) for moment in sampler.moments] == [1] * len(sampler.moments)


def test_a_source_that_ended_is_told_and_the_engine_still_looked_at() -> None:
    source = ChildMonitor("127.0.0.1:9")
    with LoadSampler(Target("http://127.0.0.1:9", "none"), source, interval_s=0.2) as sampler:
        time.sleep(1.5)
    assert sampler.problem
    assert 3 <= len(sampler.moments) <= 10
