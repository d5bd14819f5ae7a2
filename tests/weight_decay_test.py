"""Tests of the mask for weight decay, on trees of several libraries."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from absl.testing import parameterized
from flax import linen as nn
from flax import nnx

from experiments.lab.models.transformer import LanguageModel
from normjax import decay_mask
from normjax.linen import make_norm
from tests.linen.cases import CASES, named


class Layer(NamedTuple):
  weight: jax.Array
  bias: jax.Array


class Net(NamedTuple):
  layer_norm: Layer
  out: Layer


def array(*shape):
  return jax.ShapeDtypeStruct(shape, jnp.float32)


# What each library calls the parameters of a norm over several axes, and of
# another layer.
TREES = (
  ("haiku",
   {"net/~/layer_norm": {"scale": array(4, 3), "offset": array(1, 1, 1, 3)},
    "net/~/bn": {"offset": array(1, 1, 1, 3)},
    "net/~/linear": {"w": array(3, 2), "b": array(2)}},
   {"net/~/layer_norm": {"scale": False, "offset": False},
    "net/~/bn": {"offset": False},
    "net/~/linear": {"w": True, "b": False}}),
  ("equinox",
   Net(Layer(array(4, 4), array(4, 4)), Layer(array(2, 2), array(2))),
   Net(Layer(False, False), Layer(True, False))),
  ("torch",
   {"block.norm1.weight": array(4, 4), "norms.0.weight": array(4, 4),
    "block.linear.weight": array(4, 4), "block.linear.bias": array(4),
    "normal_mlp.weight": array(4, 4)},
   {"block.norm1.weight": False, "norms.0.weight": False,
    "block.linear.weight": True, "block.linear.bias": False,
    "normal_mlp.weight": True}),
  ("keras", {"bn": {"gamma": array(4, 4), "beta": array(4, 4)}},
   {"bn": {"gamma": False, "beta": False}}),
  # A layer whose name is that of a gain, and one inside of a norm.
  ("names", {"scale": {"kernel": array(2, 2)},
             "after_norm": {"kernel": array(2, 2)},
             "AdaNorm_0": {"Dense_0": {"kernel": array(2, 2)},
                           "share": array(2, 2)}},
   {"scale": {"kernel": True}, "after_norm": {"kernel": True},
    "AdaNorm_0": {"Dense_0": {"kernel": True}, "share": False}}),
  ("arrays", [array(2, 2), (array(),)], [True, (False,)]),
  ("array", array(2, 2), True),
)  # fmt: skip


class DecayMaskTest(parameterized.TestCase):
  @parameterized.named_parameters(*named(CASES))
  def test_no_parameter_of_a_norm(self, case):
    """Nor if layers are stacked by a scan, or have partitioning metadata."""
    params = case.variables().get("params", {})
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf] * 2), params)
    boxed = jax.tree.map(lambda leaf: nn.Partitioned(leaf, ("i",)), stacked)
    for tree in (params, stacked, boxed, {"LN": stacked}):
      self.assertFalse(any(jax.tree.leaves(decay_mask(tree))))

  @parameterized.named_parameters(*TREES)
  def test_names_of_other_libraries(self, params, expected):
    self.assertEqual(decay_mask(params), expected)

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

  def test_boxes_are_seen_through(self):
    """Of NNX, and of Flax's partitioning."""
    state = nnx.state(nnx.Linear(2, 3, rngs=nnx.Rngs(0)))
    mask = nnx.to_pure_dict(decay_mask(state))
    self.assertEqual(mask, {"kernel": True, "bias": False})
    boxed = {"kernel": nn.Partitioned(array(2, 2), ("a", "b"))}
    mask = decay_mask(boxed)
    self.assertEqual(mask["kernel"].value, True)

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
