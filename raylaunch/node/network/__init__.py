"""Whether nodes and ranks reach each other: what runs on the nodes, pickled by value. Standard library only."""
