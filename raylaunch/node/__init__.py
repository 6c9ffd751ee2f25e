"""Code that runs on nodes, pickled by value (cluster/ship.py): imports the standard library and pynvml only."""
