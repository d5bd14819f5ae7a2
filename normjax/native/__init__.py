"""Kernels for CPUs, in C++. They are optional: results are the same, but
faster.

They are built when normjax is installed, if there is a C++ compiler, or later
by `python -m normjax.native`. `normjax.functional` looks for them when it is
imported (`library.find`), and asks for them when it compiles a program for a
CPU (`load`).
"""

from normjax.native.library import BuildError, build, load

__all__ = [
  "BuildError",
  "build",
  "load",
]
