"""`raylaunch bench`: offer load to an OpenAI-compatible server and measure the server, not the client.

::

    target.py         the server: URL, model, API key                     sends no load
    prompts.py        questions and files -> request bodies
    synthetic.py      prompts of a given number of tokens                 prompts, target
    http_response.py  one HTTP/1.1 answer: framing, events, usage         no sockets
    connection.py     a connection that carries one request after another http_response
    shard_plan.py     what a shard gets, and what it returns
    self_check.py     whether the client kept up
    shard.py          the loop that drives many connections               connection, self_check
    local_shards.py   shards as processes; ray_shards.py: as Ray actors   shard
    sampling.py       GPUs, network and engine during the load
    stats.py          from rows to figures                                figures
    figures.py        all values of a result
    result.py         the result file and its rows file                   figures
    charts.py         lines, bars, histograms as SVG; panels.py: those over time
    report.py         HTML; png_card.py: PNG                              result, charts
    compare.py        whether two results differ                          result
    remote.py         the same as a Ray job on a cluster's head
    run.py            a complete test: warm-up, levels, sampling          all above
"""
