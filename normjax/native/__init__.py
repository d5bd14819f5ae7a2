"""Kernels for CPUs, in C++. They are optional: results are the same, but
faster.

They are built when normjax is installed, if there is a C++ compiler, or later
by `python -m normjax.native`. `normjax.functional` calls `load`, and uses the
kernels if there are any.
"""

from normjax.native.library import BuildError as BuildError
from normjax.native.library import build as build
from normjax.native.library import load as load
