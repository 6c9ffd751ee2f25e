"""`raylaunch bench`: offer load to an OpenAI-compatible server and measure the server, not the client.

run.py is a complete test: target.py and prompts.py say what is asked, shards (local_shards.py, ray_shards.py) ask it,
stats.py makes figures of their rows, result.py keeps them, and report.py draws them.
"""
