"""Early stopping against a plain loop over the losses of one seed."""

import functools
import math

import jax
import jax.numpy as jnp
from absl.testing import absltest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.lab.training import stopping

LOSSES = st.lists(
  st.sampled_from([0.25, 0.5, 0.75, 1.0, 1.25, math.nan, math.inf]),
  min_size=1,
  max_size=12,
)


@functools.cache
def update(patience, min_delta):
  return jax.jit(
    functools.partial(stopping.update, patience=patience, min_delta=min_delta)
  )


def expected(losses, patience, min_delta):
  """Returns best epoch, its loss, last epoch that counts, and divergence."""
  best, best_epoch = math.inf, 0
  for epoch, loss in enumerate(losses, start=1):
    if not math.isfinite(loss):
      return best_epoch, best, epoch, True
    if loss < best - min_delta:
      best, best_epoch = loss, epoch
    elif epoch - best_epoch >= patience:
      return best_epoch, best, epoch, False
  return best_epoch, best, None, False


class StoppingTest(absltest.TestCase):
  @settings(max_examples=60, deadline=None)
  @given(LOSSES, st.integers(1, 4), st.sampled_from([0.0, 0.25]))
  def test_keeps_the_best_until_patience_is_over(
    self, losses, patience, min_delta
  ):
    variables = {"w": jnp.zeros(2), "mean": jnp.zeros(3)}
    state = stopping.start(variables)
    for epoch, loss in enumerate(losses, start=1):
      now = jax.tree.map(lambda x: x + epoch, variables)  # noqa: B023
      state = update(patience, min_delta)(state, now, loss, loss, epoch)
    best_epoch, best, stopped_in, diverged = expected(
      losses, patience, min_delta
    )
    self.assertEqual(state.best_step, best_epoch)
    self.assertEqual(state.best_loss, best)
    self.assertEqual(state.best_variables["w"].tolist(), [best_epoch] * 2)
    self.assertEqual(state.best_variables["mean"].tolist(), [best_epoch] * 3)
    self.assertEqual(bool(state.stopped), stopped_in is not None)
    self.assertEqual(bool(state.diverged), diverged)

  def test_an_infinite_training_loss_is_divergence_too(self):
    state = stopping.start({})
    state = update(3, 0.0)(state, {}, math.inf, 1.0, 1)
    self.assertTrue(state.diverged)
    self.assertEqual(state.best_step, 0)
