"""Studies of normalization layers, each run with `python -m experiments.NAME`."""
