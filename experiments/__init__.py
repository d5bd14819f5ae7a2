"""Studies of normalization, each run with `python -m experiments.NAME`."""
