"""Optimizers by name, and Adam as transformers use it."""

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax

from normjax import decay_mask

OPTIMIZERS: Mapping[str, Callable[..., optax.GradientTransformation]] = {
  "sgd": optax.sgd,
  "adam": optax.adam,
}
TITLES = {"sgd": "SGD", "adam": "Adam"}
SCHEDULES = ("constant", "cosine")

# Vaswani et al., 2017, section 5.3. With 0.999 the large first gradients would
# stay in the second moment for a thousand steps.
_B2 = 0.98


def adamw(
  *,
  learning_rate: float,
  warmup_steps: int,
  schedule: str,
  steps: int,
  weight_decay: float,
  clip_norm: float,
) -> optax.GradientTransformation:
  """Returns AdamW with warm-up, a schedule and clipping.

  Args:
    learning_rate: Maximum learning rate.
    warmup_steps: Number of steps of linear warm-up, which starts at
      `learning_rate / warmup_steps`.
    schedule: Schedule after the warm-up: "constant", or "cosine" to a tenth.
    steps: Number of steps at which the cosine ends.
    weight_decay: Weight decay of kernels and embeddings, times the learning
      rate.
    clip_norm: Gradients of a larger norm are scaled down to it; 0 for no
      clipping.
  """
  clip = optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity()
  # The mask is a function: a tree made from all parameters would see the axis
  # of seeds.
  return optax.chain(
    clip,
    optax.adamw(
      functools.partial(
        _learning_rate,
        highest=learning_rate,
        warmup_steps=warmup_steps,
        decay_steps=steps - warmup_steps if schedule == "cosine" else 0,
      ),
      b2=_B2,
      weight_decay=weight_decay,
      mask=decay_mask,
    ),
  )


def _learning_rate(
  step: jax.Array, *, highest: float, warmup_steps: int, decay_steps: int
) -> jax.Array:
  step = jnp.asarray(step, jnp.float32)
  # Not zero at the first step, which would waste it.
  warm = jnp.minimum(1.0, (step + 1) / max(1, warmup_steps))
  if decay_steps <= 0:
    return highest * warm
  done = jnp.clip((step - warmup_steps) / decay_steps, 0.0, 1.0)
  return highest * warm * (0.55 + 0.45 * jnp.cos(jnp.pi * done))
