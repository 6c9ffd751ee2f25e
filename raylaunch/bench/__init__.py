"""`raylaunch bench`: offer load to an OpenAI-compatible server; the figures are the server's, not the client's.

::

    target.py    where the server is, what it serves, its key                 no requests of load
    prompts.py   questions, files -> request bodies
    synthetic.py prompts of so many tokens                                    prompts target
    wire.py      one HTTP/1.1 answer, byte by byte: framing, events, usage    no sockets
    streams.py   a connection that carries one request after another          wire
    plan.py      what a shard is told, and what it brings back
    shard.py     the loop that drives many streams, and checks itself        streams watch
    runner.py     shards as processes here; ray_fleet.py: as Ray actors        shard
    sampling.py  GPUs, network and engine meanwhile                           -
    stats.py     from rows to figures                                         -
    result.py    the result file and its rows file                            stats
    charts.py    lines, bars, histograms as SVG text; panels.py: those over time
    report.py    HTML; card.py: PNG                                           result charts
    compare.py   two results, and whether they differ                         result
    remote_bench.py   on a cluster's head as a Ray job, its files brought home
    run.py       a whole run: levels, warm-up, sampling, ending               all above
"""
