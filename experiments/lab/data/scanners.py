"""Images as another scanner would record them.

Scanners of two hospitals differ in brightness, contrast, in how grey values are
spread (gamma), and in noise. The label of an image stays the same.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.lab.data.arrays import Pool

_LEVELS = 255
_SEED = 2  # Noise is a property of an image: no seed of a study changes it.


class Scanner(NamedTuple):
  """How a scanner records a grey value v from 0 to 1.

  It records `intensity + contrast * v**gamma` and adds noise; what is outside
  of 0 to 1 becomes 0 or 1.

  Attributes:
    intensity: What black becomes.
    contrast: Distance of white and black.
    gamma: Below one, dark values become brighter.
    noise: Standard deviation of the noise of every pixel.
  """

  intensity: float = 0.0
  contrast: float = 1.0
  gamma: float = 1.0
  noise: float = 0.0


def rescanned(pool: Pool, scanner: Scanner) -> Pool:
  """Returns the same images as another scanner records them.

  Args:
    pool: Images as bytes.
    scanner: The scanner.

  >>> from experiments.lab.data import arrays
  >>> pool = arrays.load_pool("digits")
  >>> other = rescanned(pool, Scanner(intensity=0.25, contrast=0.5))
  >>> for images in pool, other:
  ...   inputs = images.prepared(100).inputs
  ...   print(inputs.min().round(2), inputs.max().round(2))
  0.0 1.0
  0.25 0.75
  """
  values = np.asarray(pool.prepare(pool.examples.inputs))
  noise = np.asarray(jax.random.normal(jax.random.key(_SEED), values.shape))
  recorded = scanner.intensity + scanner.contrast * values**scanner.gamma
  recorded = np.clip(recorded + scanner.noise * noise, 0, 1)
  inputs = np.rint(_LEVELS * recorded).astype(np.uint8)
  return pool._replace(
    examples=pool.examples._replace(inputs=jnp.asarray(inputs)),
    prepare=lambda x: x.astype(jnp.float32) / _LEVELS,
  )
