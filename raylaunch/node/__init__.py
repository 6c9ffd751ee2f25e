"""What runs on a node, pickled by value: standard library and pynvml only."""
