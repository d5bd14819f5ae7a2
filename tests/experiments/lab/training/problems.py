"""Problems of a few hundred bytes, for tests of the engine."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.lab.data.batch import Batch, Members
from experiments.lab.models.nets import MLP
from experiments.lab.training.batches import Shuffled
from experiments.lab.training.engine import Engine
from experiments.lab.training.losses import cross_entropy
from experiments.lab.training.step import Update
from normjax.linen import make_norm


def prepare(images):
  return images.astype(jnp.float32) / 255


def examples(count=44, classes=3, seed=0):
  """Returns noisy images `[count, 4, 4, 1]`; the class is the brightest row."""
  rng = np.random.default_rng(seed)
  labels = rng.integers(0, classes, count).astype(np.int32)
  images = rng.integers(0, 120, (count, 4, 4, 1), np.uint8)
  images[np.arange(count), labels] += np.uint8(130)
  return Batch(jnp.asarray(images), jnp.asarray(labels))


def members(chosen, count=44, noisy=False):
  """Returns examples of each lane, with targets of their own if noisy."""
  pool, chosen = examples(count), jnp.asarray(chosen, jnp.int32)
  targets = (pool.targets[chosen] + chosen) % 3 if noisy else None
  return Members(pool, chosen, targets)


def own_examples(lanes=3, each=21, noisy=True):
  """Returns members whose lanes differ."""
  rng = np.random.default_rng(0)
  chosen = [rng.permutation(44)[:each] for _ in range(lanes)]
  return members(chosen, noisy=noisy)


def only(tree, lane):
  """Returns the arrays of one lane, which keep their axis of lanes."""
  return jax.tree.map(lambda array: array[lane : lane + 1], tree)


def adam(learning_rate):
  """Returns optax's Adam, which strict dtype promotion refuses."""
  optimizer = optax.adam(learning_rate)

  def update(*args):
    with jax.numpy_dtype_promotion("standard"):
      return optimizer.update(*args)

  return optax.GradientTransformation(optimizer.init, update)


@functools.cache
def engine(norm="ln", **settings):
  """Returns an engine; tests that ask for the same share what it compiled."""
  return new_engine(norm, **settings)


def new_engine(
  norm="ln",
  *,
  model=MLP,
  hidden=(8,),
  dropout=0.0,
  optimizer=None,
  count=44,
  data=None,
  batch_size=8,
  loss=None,
  **options,
):
  return Engine(
    model(
      norm=functools.partial(make_norm, norm),
      hidden=hidden,
      dropout=dropout,
      num_classes=3,
    ),
    Update(loss or cross_entropy(prepare), optimizer or adam(1e-2)),
    Shuffled(examples(count) if data is None else data, batch_size),
    sample=np.zeros((1, 4, 4, 1), np.float32),
    **{"eval_size": 10, **options},
  )
