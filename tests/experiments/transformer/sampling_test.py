"""Tests of sampling against the plainest way to do it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest

from experiments.lab.models.transformer import LanguageModel
from experiments.transformer.sampling import sample
from normjax.linen import make_norm


class SampleTest(absltest.TestCase):
  def test_each_token_is_drawn_given_the_last_ones(self):
    model = LanguageModel(
      functools.partial(make_norm, "ln"),
      vocabulary=7,
      layers=1,
      width=8,
      heads=2,
      context=4,
    )
    variables = jax.jit(functools.partial(model.init, train=False))(
      jax.random.key(0), jnp.zeros((1, 4), jnp.int32)
    )
    # Large kernels, so that what a token sees decides on the next one.
    params = jax.tree.map(lambda leaf: 20 * leaf, variables["params"])
    params["LayerNorm_0"] = {"scale": jnp.full(8, 1.5), "bias": jnp.zeros(8)}
    key = jax.random.key(5)
    variables = {"params": params}
    tokens = sample(model, variables, count=12, key=key, start=3)

    apply = jax.jit(functools.partial(model.apply, train=False))
    expected = [3]
    for number in range(12):
      window = jnp.array([expected[-4:]], jnp.int32)
      logits = apply(variables, window)
      drawn = jax.random.categorical(
        jax.random.fold_in(key, number), logits[0, -1]
      )
      expected.append(int(drawn))
    self.assertEqual(tokens.tolist(), expected[1:])
    self.assertGreater(len(np.unique(tokens)), 2)


if __name__ == "__main__":
  absltest.main()
