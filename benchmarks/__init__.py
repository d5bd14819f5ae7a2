"""Comparisons with the peers, each run with `python -m benchmarks.NAME`."""
