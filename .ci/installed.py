"""Uses the normjax that is installed, where there is no C++ compiler.

`python installed.py --with-kernels` fails if the kernels are not used, with
`--without-kernels` if they are; both if numpy computes something else.
"""

import importlib.metadata
import pathlib
import re
import shutil
import sys

import jax
import jax.numpy as jnp
import numpy as np

import normjax
from normjax import linen


def main(wanted: str) -> None:
  place = pathlib.Path(normjax.__file__)
  assert place.is_relative_to(sys.prefix), f"{place} is not installed."
  assert normjax.__version__ == importlib.metadata.version("normjax")
  found = list(filter(shutil.which, ("c++", "g++", "clang++")))
  assert not found, f"There is a compiler: {found}"

  x = np.random.default_rng(0).normal(1e4, 1.0, (32, 64)).astype(np.float32)
  module = linen.LayerNorm()
  variables = module.init(jax.random.key(0), x)

  def loss(x: jax.Array, dy: jax.Array) -> jax.Array:
    return jnp.vdot(module.apply(variables, x), dy)

  step = jax.jit(jax.grad(loss, argnums=(0, 1)))
  dx, y = step(jnp.asarray(x), jnp.asarray(x - 1e4))

  x64 = x.astype(np.float64)
  centred = x64 - x64.mean(-1, keepdims=True)
  factor = 1 / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
  dy = x64 - 1e4
  y64 = centred * factor
  slope = (dy * y64).mean(-1, keepdims=True)
  dx64 = factor * (dy - dy.mean(-1, keepdims=True) - y64 * slope)
  np.testing.assert_allclose(y, y64, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(dx, dx64, rtol=1e-4, atol=1e-4)

  program = step.lower(x, x).as_text()
  kernels = re.findall(r"@(normjax_\w+)\(", program)
  expected = {
    "--with-kernels": ["normjax_normalize", "normjax_pullback"],
    "--without-kernels": [],
  }
  assert kernels == expected[wanted], f"{wanted}, but it calls {kernels}"
  print(f"normjax {normjax.__version__}, JAX {jax.__version__}: {wanted[2:]}")


if __name__ == "__main__":
  main(*sys.argv[1:])
