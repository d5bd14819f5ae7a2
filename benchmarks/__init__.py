"""Comparisons with other libraries, run by `python -m benchmarks.NAME`."""
