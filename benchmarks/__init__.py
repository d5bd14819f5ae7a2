"""Speed and accuracy beside the peers, each run with `python -m benchmarks.NAME`."""
