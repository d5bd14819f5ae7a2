"""Tests of the mask for weight decay, on trees of several libraries."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from absl.testing import absltest
from flax import linen as nn
from flax import nnx

from experiments.lab.models.transformer import LanguageModel
from experiments.lab.training.weight_decay import decay_mask
from normjax.linen import make_norm


class Layer(NamedTuple):
  weight: jax.Array
  bias: jax.Array


class DecayMaskTest(absltest.TestCase):
  def test_kernels_and_embeddings_of_a_transformer(self):
    model = LanguageModel(functools.partial(make_norm, "bn"), layers=1)
    variables = jax.eval_shape(
      lambda: model.init(
        jax.random.key(0), jnp.zeros((1, 4), jnp.int32), train=False
      )
    )
    leaves = jax.tree_util.tree_leaves_with_path(
      decay_mask(variables["params"])
    )
    decayed = {
      jax.tree_util.keystr(path, simple=True, separator="/")
      for path, decays in leaves
      if decays
    }
    block = ("query_key_value", "attention_out", "feed_forward_in")
    self.assertEqual(
      decayed,
      {"embedding", "block_0/feed_forward_out/kernel"}
      | {f"block_0/{name}/kernel" for name in block},
    )
    self.assertLen(leaves, 5 + 4 + 3 * 2)

  def test_gains_and_biases_of_several_axes(self):
    params = {
      "LayerNorm_0": {
        "scale": jnp.ones((4, 4, 3)),
        "bias": jnp.ones((4, 4, 3)),
      },
      "query": {"kernel": jnp.ones((8, 2, 4)), "bias": jnp.ones((2, 4))},
    }
    self.assertEqual(
      decay_mask(params),
      {
        "LayerNorm_0": {"scale": False, "bias": False},
        "query": {"kernel": True, "bias": False},
      },
    )

  def test_other_trees(self):
    layers = [Layer(jnp.ones((2, 2)), jnp.ones(2)), (jnp.ones(()),)]
    self.assertEqual(decay_mask(layers), [Layer(True, False), (False,)])
    state = nnx.state(nnx.Linear(2, 3, rngs=nnx.Rngs(0)))
    mask = nnx.to_pure_dict(decay_mask(state))
    self.assertEqual(mask, {"kernel": True, "bias": False})

  def test_optax_decays_what_it_says(self):
    params = nn.Dense(2).init(jax.random.key(0), jnp.ones((1, 2)))["params"]
    params["bias"] = jnp.ones(2)
    tx = optax.add_decayed_weights(0.5, mask=decay_mask)
    zero = jax.tree.map(jnp.zeros_like, params)
    updates, _ = tx.update(zero, tx.init(params), params)
    self.assertEqual(updates["bias"].tolist(), [0, 0])
    self.assertEqual(
      updates["kernel"].tolist(), (params["kernel"] / 2).tolist()
    )


if __name__ == "__main__":
  absltest.main()
