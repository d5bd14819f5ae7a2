"""The losses of both networks, and the training of one lane after the other."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from experiments.gan.arms import Arm, framed, model
from experiments.gan.config import Config
from experiments.gan.measures import Samples
from experiments.gan.nets import GAN
from experiments.gan.yardstick import Yardstick
from experiments.lab import tuning
from experiments.lab.data.arrays import Pool
from experiments.lab.data.batch import Batch, Prepare
from experiments.lab.errors import RefusedError
from experiments.lab.models import nets, norms
from experiments.lab.study import Parts
from experiments.lab.training import lanes
from experiments.lab.training.batches import Shuffled
from experiments.lab.training.engine import Engine
from experiments.lab.training.hyperparams import swept
from experiments.lab.training.losses import Loss
from experiments.lab.training.step import Update

PyTree = Any
_B1 = 0.5  # Of Adam, from Radford et al.


def adversarial(prepare: Prepare, size: int, noise: int) -> tuple[Loss, Loss]:
  """Returns the losses of the discriminator and of the generator.

  Both are cross-entropies. The discriminator's is the sum of that of a batch of
  real and of a batch of generated images. The generator asks for samples that
  are judged to be real, which does not saturate: Goodfellow et al., 2014,
  https://arxiv.org/abs/1406.2661, section 3.

  Args:
    prepare: Converts the inputs of a batch to images from 0 to 1.
    size: Height and width of the images of the networks.
    noise: Numbers from which an image is made.
  """

  def generated(
    gan: nn.Module, variables: PyTree, batch: Batch, key: jax.Array, train: bool
  ) -> tuple[jax.Array, PyTree]:
    numbers = jax.random.normal(key, (batch.num_examples, noise))
    return _called(gan, variables, numbers, "generate", train)

  def discriminator(
    gan: nn.Module, variables: PyTree, batch: Batch, key: jax.Array, train: bool
  ) -> tuple[jax.Array, PyTree, dict[str, jax.Array]]:
    fake, variables = generated(gan, variables, batch, key, train)
    real = framed(prepare(batch.inputs), size)
    # Two calls: in one, batch norm would mix the real and the generated.
    on_real, variables = _called(gan, variables, real, "judge", train)
    on_fake, variables = _called(gan, variables, fake, "judge", train)
    losses = jax.nn.softplus(-on_real) + jax.nn.softplus(on_fake)
    right = ((on_real > 0).sum() + (on_fake < 0).sum()) / 2
    sums = {"loss": losses.sum(), "right": right, "count": _count(batch)}
    return losses.mean(), _stats(variables), sums

  def generator(
    gan: nn.Module, variables: PyTree, batch: Batch, key: jax.Array, train: bool
  ) -> tuple[jax.Array, PyTree, dict[str, jax.Array]]:
    fake, variables = generated(gan, variables, batch, key, train)
    logits, variables = _called(gan, variables, fake, "judge", train)
    losses = jax.nn.softplus(-logits)
    sums = {"generator_loss": losses.sum(), "count": _count(batch)}
    return losses.mean(), _stats(variables), sums

  return discriminator, generator


def _called(
  gan: nn.Module, variables: PyTree, inputs: jax.Array, method: str, train: bool
) -> tuple[jax.Array, PyTree]:
  """Returns the outputs, and the variables with new statistics."""
  found, changed = gan.apply(
    variables, inputs, train=train, mutable=["batch_stats"], method=method
  )
  return found, {**variables, **changed}


def _stats(variables: PyTree) -> PyTree:
  return {name: tree for name, tree in variables.items() if name != "params"}


def _count(batch: Batch) -> jax.Array:
  return jnp.full((), batch.num_examples, jnp.float32)


def build(arm: Arm, config: Config, pool: Pool) -> Engine:
  """Returns the engine of an arm, with an optimizer for each network.

  Raises:
    RefusedError: The networks cannot be built.
  """
  gan = model(arm, config.hidden, pool.sample.shape[1:])
  noise = jnp.zeros((2, config.noise))
  try:
    jax.eval_shape(
      functools.partial(gan.init, train=False), jax.random.key(0), noise
    )
  except ValueError as error:
    raise RefusedError(norms.error_text(error, "--hidden")) from error
  losses = adversarial(pool.prepare, gan.generator.size, config.noise)
  adam = functools.partial(optax.adam, b1=_B1)
  networks = ("discriminator", "generator")
  return Engine(
    gan,
    [
      Update(loss, swept(adam), trains=(network,))
      for loss, network in zip(losses, networks, strict=True)
    ],
    Shuffled(pool.split([0]).train, config.batch_size),
    sample=noise,
    gain=config.gain,
    scan=nets.scans_convolutions(),
  )


def train(
  engine: Engine,
  config: Config,
  pool: Pool,
  yardsticks: Mapping[int, Yardstick],
  rates: Sequence[float],
  seeds: Sequence[int],
  again: bool = False,
) -> Parts:
  """Trains and measures every seed at every rate, one after the other.

  Args:
    engine: From `build`; it compiles one lane, once.
    config: The settings.
    pool: Images from which each seed draws.
    yardsticks: The classifier of every seed.
    rates: Learning rates of both networks.
    seeds: The seeds.
    again: Whether to take other kernels, batches and noise, on the same images.

  Returns:
    What `Samples.found` returns, and "right", the share of real and generated
    images that the discriminator told apart, as `[rates, seeds, ...]`.
  """
  gan = engine.model
  assert isinstance(gan, GAN)

  def of_lane(rate: float, seed: int) -> Parts:
    images = pool.split([seed])
    of_seed = engine.on(Shuffled(images.train, config.batch_size))
    own = seed + tuning.AGAIN * again
    samples = Samples(gan, config, images, yardsticks[seed], own)
    state = of_seed.init([own], learning_rate=[rate])
    samples.measure(lanes.one(state.variables, 0))
    right = []
    for _ in range(config.checkpoints):
      state, records = of_seed.train(state, config.every)
      samples.measure(lanes.one(state.variables, 0))
      right.append(records.means()["right"][0])
    return {**samples.found(), "right": np.array(right)}

  return lanes.each(of_lane, rates, seeds)
