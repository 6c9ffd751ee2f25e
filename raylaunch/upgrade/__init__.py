"""Replace a running launch by another one, keep it only if it serves as well, and go back otherwise."""
