"""Kernels for CPUs, in C++: optional, the same results as without, faster.

They are built while normjax is installed, where a C++ compiler is found, or by
`python -m normjax.native` later. `normjax.functional` asks `load` and uses what
is there.
"""

from normjax.native.library import BuildError as BuildError
from normjax.native.library import build as build
from normjax.native.library import load as load
