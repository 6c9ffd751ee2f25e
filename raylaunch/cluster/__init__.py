"""A Ray cluster that this process has joined: its nodes, places, ranks and samples."""
