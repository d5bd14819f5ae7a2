"""Which norms are compared, and the images as the networks see them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.gan.nets import GAN, Discriminator, Generator
from experiments.lab.errors import RefusedError
from experiments.lab.models.norms import norm_factory


class Arm(NamedTuple):
  """Which norms a GAN has.

  Attributes:
    title: Name in tables and figures.
    generator: Norm of the generator's hidden layers.
    discriminator: Norm of the discriminator's hidden layers but the first.
    generator_output: Norm before the generator's tanh.
    discriminator_input: Norm of the discriminator's first layer.
    discriminator_output: Norm of the discriminator's logits.
    spectral: Whether the discriminator has spectral norm.
  """

  title: str
  generator: str
  discriminator: str
  generator_output: str = "none"
  discriminator_input: str = "none"
  discriminator_output: str = "none"
  spectral: bool = False


ARMS = {
  "none": Arm("no norm", "none", "none"),
  "generator": Arm("bn in G", "bn", "none"),
  "both": Arm("bn in G and D", "bn", "bn"),
  "all": Arm("bn in all layers", "bn", "bn", "bn", "bn"),
  "last": Arm("bn in G and D, and last", "bn", "bn", discriminator_output="bn"),
  "gn": Arm("gn in G", "gn", "none"),
  "spectral": Arm("bn in G, sn in D", "bn", "none", spectral=True),
}


def model(arm: Arm, hidden: Sequence[int], shape: Sequence[int]) -> GAN:
  """Returns the networks of an arm.

  Args:
    arm: The norms.
    hidden: Channels of the generator's hidden layers; the discriminator has
      them in reverse.
    shape: Height, width and channels of an image.

  Raises:
    RefusedError: The images are not square.
  """
  if shape[0] != shape[1]:
    raise RefusedError(f"The images must be square, got {shape[0]}x{shape[1]}.")
  step = 2 ** len(hidden)
  generator = Generator(
    norm=norm_factory(arm.generator),
    output_norm=norm_factory(arm.generator_output),
    hidden=(*hidden,),
    size=-(-shape[0] // step) * step,
    channels=shape[2],
  )
  discriminator = Discriminator(
    norm=norm_factory(arm.discriminator),
    input_norm=norm_factory(arm.discriminator_input),
    output_norm=norm_factory(arm.discriminator_output),
    hidden=(*hidden[::-1],),
    spectral=arm.spectral,
  )
  return GAN(generator, discriminator)


def framed(images: Any, size: int) -> jax.Array:
  """Returns square images as the networks see them.

  Args:
    images: From 0 to 1, `[n, side, side, channels]`.
    size: Height and width to pad to, with black.

  Returns:
    Images from -1 to 1, `[n, size, size, channels]`.
  """
  before = (size - images.shape[1]) // 2
  around = (before, size - images.shape[1] - before)
  padded = jnp.pad(jnp.asarray(images), [(0, 0), around, around, (0, 0)])
  return 2 * padded - 1


def unframed(images: jax.Array, side: int) -> jax.Array:
  """Returns images from 0 to 1, `[n, side, side, channels]`, of `framed`."""
  start = (images.shape[1] - side) // 2
  return (images[:, start : start + side, start : start + side] + 1) / 2
