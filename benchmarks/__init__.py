"""Comparisons with other libraries, run by `python -m benchmarks.NAME`."""

import experiments  # noqa: F401  Says which packages are missing, if any.
