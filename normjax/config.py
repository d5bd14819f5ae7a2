"""What normjax runs on: versions, JAX's backend, the kernels."""

import importlib.metadata
import platform
from typing import NamedTuple

import jax
import jaxlib
import numpy as np

import normjax
from normjax.native import library


class Config(NamedTuple):
  """What normjax runs on. `str` makes it a table, `_asdict` suits JSON.

  Attributes:
    python, normjax, jax, jaxlib, numpy: Versions.
    flax: Its version; None if it is not installed.
    backend: JAX's default backend, such as "cpu" or "gpu".
    kernels: File of the kernels for CPUs; None if they are off.
    processor: The level of processors that the kernels use here: "x86-64-v4"
      (AVX-512), "x86-64-v3" (AVX2) or "baseline"; None if they are off.
    problem: Why the kernels are off, and what to do; None if they are on.
  """

  python: str
  normjax: str
  jax: str
  jaxlib: str
  numpy: str
  flax: str | None
  backend: str
  kernels: str | None
  processor: str | None
  problem: str | None

  def __str__(self) -> str:
    lines = {
      **self._asdict(),
      "flax": self.flax or "not installed",
      "kernels": self.kernels or f"off: {self.problem}",
    }
    del lines["problem"]
    return "\n".join(
      f"{name:<9}  {value}" for name, value in lines.items() if value
    )


def get_config() -> Config:
  """Returns what normjax runs on: versions, JAX's backend, the kernels.

  Starts JAX's default backend. If that is the CPU, kernels that do not fit the
  installed jaxlib are built anew, as the first norm would do it.

  >>> config = normjax.get_config()
  >>> config.normjax == normjax.__version__, config.backend
  (True, 'cpu')
  >>> sorted(config._asdict())
  ['backend', 'flax', 'jax', 'jaxlib', 'kernels',
   'normjax', 'numpy', 'problem', 'processor', 'python']
  """
  backend = jax.default_backend()
  kernels = library.provide() if backend == "cpu" else library.find()
  try:
    flax = importlib.metadata.version("flax")  # An import would take long.
  except importlib.metadata.PackageNotFoundError:
    flax = None
  return Config(
    python=platform.python_version(),
    normjax=normjax.__version__,
    jax=jax.__version__,
    jaxlib=jaxlib.__version__,
    numpy=np.__version__,
    flax=flax,
    backend=backend,
    kernels=str(kernels.path) if kernels.path else None,
    processor=kernels.level,
    problem=kernels.problem,
  )


def show_config() -> None:
  """Prints what `get_config` returns; add it to reports of faults.

  >>> normjax.show_config()  # doctest: +ELLIPSIS
  python     3...
  normjax    0...
  jax        0...
  jaxlib     0...
  numpy      2...
  flax       0...
  backend    cpu
  kernels    ...
  """
  print(get_config())
