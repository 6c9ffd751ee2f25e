"""Benchmarks: run by hand, ratios within one run, result files kept in results/."""
