"""Tests of the transformers: what sees what, and how they start."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from experiments.lab.models.blocks import (
  PLACEMENTS,
  TransformerBlock,
  rotated,
)
from experiments.lab.models.transformer import Classifier, LanguageModel
from normjax import linen as norms
from normjax.linen import make_norm

# Of one position, where the norm could see others.
OPTIONS = {"gn": {"num_groups": 2, "reduction_axes": -1}}
SMALL = {"layers": 1, "width": 8, "heads": 2, "context": 6}
LENGTHS = np.array([6, 3, 1])
MASK = jnp.arange(6)[None] < LENGTHS[:, None]


def norm(name):
  return functools.partial(make_norm, name, **OPTIONS.get(name, {}))


def language_model(name="ln", **options):
  return LanguageModel(norm(name), **{**SMALL, "vocabulary": 5, **options})


def tokens(seed=0):
  return jax.random.randint(jax.random.key(seed), (3, 6), 0, 5)


def init(model, x, seed=1):
  """Returns the variables; jitted, since one operation at a time is slower."""
  return jax.jit(functools.partial(model.init, train=False))(
    jax.random.key(seed), x
  )


def evaluate(model, variables):
  """Returns logits, with running statistics, of inputs and a mask."""
  return jax.jit(
    lambda inputs, mask=None: model.apply(
      variables, inputs, mask=mask, train=False
    )
  )


def train(model, variables):
  """Returns logits, running statistics and gradients, with batch statistics."""

  def loss(params, inputs, mask, weights):
    logits, updated = model.apply(
      {**variables, "params": params},
      inputs,
      mask=mask,
      train=True,
      mutable=["batch_stats"],
    )
    # Where padded, zero times NaN would be NaN.
    counted = jnp.where(weights, logits, 0)
    return jnp.sum(counted**2), (counted, updated)

  gradient = jax.jit(jax.grad(loss, has_aux=True))
  return functools.partial(gradient, variables["params"])


class CausalTest(parameterized.TestCase):
  @parameterized.product(
    name=["none", "ln", "rms", "bn", "gn"], placement=["pre", "peri"]
  )
  def test_later_tokens_do_not_change_logits(self, name, placement):
    if name != "bn" and placement == "peri":
      name_options = {"qk_norm": True, "positions": "learned"}
    else:
      name_options = {}
    model = language_model(name, placement=placement, **name_options)
    x = tokens()
    variables = init(model, x)
    logits = evaluate(model, variables)
    before = logits(x)
    for time in (0, 3, 5):
      after = logits(x.at[:, time].add(1) % 5)
      chex.assert_trees_all_equal(before[:, :time], after[:, :time])
      change = np.abs(before[:, time:] - after[:, time:]).max(axis=(0, 2))
      self.assertGreater(change.min(), 1e-4)  # All the others see it.

  def test_instance_norm_would_see_the_future(self):
    model = language_model("in")
    x = tokens()
    variables = init(model, x)
    logits = evaluate(model, variables)
    change = logits(x) - logits(x.at[:, 5].add(1) % 5)
    self.assertGreater(np.abs(change[:, 0]).max(), 1e-4)

  def test_an_encoder_sees_both_ways(self):
    block = TransformerBlock(norm("ln"), heads=2, causal=False)
    x = jax.random.normal(jax.random.key(0), (1, 4, 8))
    variables = block.init(jax.random.key(1), x, train=False)
    run = jax.jit(lambda x: block.apply(variables, x, train=False))
    change = run(x) - run(x.at[0, 3, 0].add(1))
    self.assertGreater(np.abs(change).max(axis=-1).min(), 1e-4)


class PaddingTest(parameterized.TestCase):
  @parameterized.parameters(*norms.norm_names()[:6])
  def test_an_encoder_sees_no_padding(self, name):
    model = Classifier(norm(name), **SMALL, num_classes=4, qk_norm=True)
    x = jax.random.normal(jax.random.key(0), (3, 6, 5))
    variables = init(model, x)
    step = train(model, variables)
    weights = jnp.ones((3, 1), bool)
    padded = jnp.where(MASK[..., None], x, jnp.nan)
    expected = step(x, MASK, weights)
    chex.assert_trees_all_equal(step(padded, MASK, weights), expected)
    chex.assert_tree_all_finite(expected)
    logits = evaluate(model, variables)
    chex.assert_trees_all_equal(logits(padded, MASK), logits(x, MASK))
    # A mask is not padding: what is shown does count.
    change = step(x, jnp.ones_like(MASK), weights)[1][0] - expected[1][0]
    self.assertGreater(np.abs(change[1:]).max(), 1e-3)
    if name != "bn":
      alone = evaluate(model, variables)(x[1:2, :3])
      np.testing.assert_allclose(
        logits(x, MASK)[1:2], alone, rtol=1e-5, atol=1e-6
      )

  @parameterized.parameters("ln", "bn")
  def test_a_decoder_sees_no_padding(self, name):
    model = language_model(name, placement="peri")
    x = tokens()
    variables = init(model, x)
    step = train(model, variables)
    weights = MASK[..., None]
    expected = step(x, MASK, weights)
    other = jnp.where(MASK, x, 99)  # Not even a token.
    chex.assert_trees_all_equal(step(other, MASK, weights), expected)

  def test_batch_statistics_are_those_of_what_is_not_padded(self):
    model = Classifier(
      functools.partial(make_norm, "bn", momentum=0.0),
      **SMALL,
    )
    x = jax.random.normal(jax.random.key(0), (3, 6, 5))
    variables = init(model, x)
    _, updated = model.apply(
      variables, x, mask=MASK, train=True, mutable=["batch_stats"]
    )
    # The first norm sees the embedding.
    seen = x @ variables["params"]["embedding"]["kernel"]
    seen = np.asarray(seen)[np.asarray(MASK)]
    stats = updated["batch_stats"]["block_0"]["BatchNorm_0"]
    np.testing.assert_allclose(stats["mean"], seen.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(stats["var"], seen.var(axis=0), rtol=1e-4)


class PlacementTest(parameterized.TestCase):
  @parameterized.parameters(
    # Norms in a block, at the end, on the embedding.
    ("pre", 2, 1, 0),
    ("post", 2, 0, 0),
    ("sandwich", 4, 1, 0),
    ("peri", 4, 1, 1),
    ("none", 0, 0, 0),
  )
  def test_number_of_norms(self, placement, within, at_end, at_start):
    model = language_model(placement=placement)
    params = jax.eval_shape(lambda: init(model, tokens()))["params"]
    count = lambda tree: sum("Norm" in name for name in tree)
    self.assertEqual(count(params["block_0"]), within)
    self.assertEqual(count(params), at_end + at_start)

  @parameterized.parameters(*PLACEMENTS)
  def test_block_by_hand(self, placement):
    """With kernels of zero, sub-layers give their bias, here one."""
    block = TransformerBlock(norm("rms"), placement=placement, heads=1)
    x = jnp.array([[[3.0, 4.0]]])
    variables = block.init(jax.random.key(0), x, train=False)
    params = jax.tree.map(jnp.zeros_like, variables["params"])
    for name, leaves in params.items():
      if "Norm" in name:
        params[name] = jax.tree.map(jnp.ones_like, leaves)
    for name in ("attention_out", "feed_forward_out"):
      params[name]["bias"] = jnp.ones(2)
    rms = lambda v: v / np.sqrt(np.mean(v**2) + 1e-6)
    v = np.array([3.0, 4.0])
    expected = {
      "none": v + 2,
      "pre": v + 2,
      "post": rms(rms(v + 1) + 1),
      "sandwich": v + 2 * rms(np.ones(2)),
      "peri": v + 2 * rms(np.ones(2)),
    }[placement]
    y = block.apply({"params": params}, x, train=False)
    np.testing.assert_allclose(y[0, 0], expected, rtol=1e-5)

  def test_peri_normalizes_the_embedding(self):
    model = language_model(placement="peri", layers=0)
    variables = init(model, tokens())
    params = variables["params"]
    self.assertLen([n for n in params if "LayerNorm" in n], 2)

  def test_equal_kernels_whatever_the_norm(self):
    def kernels(name, **options):
      params = language_model(name, **options).init(
        jax.random.key(0), tokens(), train=False
      )["params"]
      return {
        jax.tree_util.keystr(path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
        if leaf.ndim > 1
      }

    expected = kernels("none")
    chex.assert_trees_all_equal(kernels("bn", placement="peri"), expected)
    chex.assert_trees_all_equal(
      kernels("ln", placement="post", qk_norm=True), expected
    )


class InitTest(parameterized.TestCase):
  # One over the variances of queries' and the attention's output's kernel,
  # then of the two of the feed-forward layer.
  @parameterized.parameters(
    ("gpt2", (64, 64 * 16, 64, 256 * 16)),
    ("lecun", (64, 64, 64, 256)),
    ("xavier", ((64 + 192) / 2, 64, (64 + 256) / 2, (64 + 256) / 2)),
  )
  def test_variances_of_kernels(self, kernel_init, expected):
    model = language_model(width=64, layers=8, kernel_init=kernel_init)
    block = init(model, tokens())["params"]["block_3"]
    names = "query_key_value", "attention_out"
    names += "feed_forward_in", "feed_forward_out"
    found = [1 / np.var(block[name]["kernel"]) for name in names]
    np.testing.assert_allclose(found, expected, rtol=0.1)

  def test_logits_start_small(self):
    model = language_model(width=256, heads=4, vocabulary=50)
    x = jax.random.randint(jax.random.key(0), (4, 6), 0, 50)
    logits = evaluate(model, init(model, x))(x)
    self.assertBetween(np.std(logits), 0.3, 0.9)

  def test_the_embedding_is_tied(self):
    params = init(language_model(), tokens())
    shapes = [leaf.shape for leaf in jax.tree.leaves(params)]
    self.assertEqual(shapes.count((5, 8)), 1)
    self.assertNotIn((8, 5), shapes)


class AttentionTest(parameterized.TestCase):
  def test_rotated_products_depend_on_the_distance(self):
    query, key = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 8))
    query, key = (
      rotated(jnp.broadcast_to(x, (1, 9, 1, 8))) for x in (query, key)
    )
    products = np.einsum("bthf,bshf->ts", query, key)
    for distance in (-3, 0, 2):
      diagonal = np.diagonal(products, distance)
      np.testing.assert_allclose(diagonal, diagonal[0], rtol=1e-4, atol=1e-5)
    self.assertGreater(np.ptp(products), 0.1)

  @parameterized.parameters("rotary", "learned")
  def test_order_counts(self, positions):
    model = language_model(positions=positions)
    x = jnp.array([[0, 1, 2], [1, 0, 2]])
    variables = init(model, x)
    logits = model.apply(variables, x, train=False)
    self.assertGreater(np.abs(logits[0, 2] - logits[1, 2]).max(), 1e-4)

  @parameterized.parameters(1.0, 1000.0)
  def test_qk_norm_bounds_the_logits(self, size):
    def largest(qk_norm):
      model = language_model(qk_norm=qk_norm, layers=1)
      variables = init(model, tokens())
      kernel = variables["params"]["block_0"]["query_key_value"]
      kernel["kernel"] *= size
      _, found = model.apply(
        variables, tokens(), train=False, mutable=["diagnostics"]
      )
      return float(found["diagnostics"]["block_0"]["max_logit"])

    # Norms of two vectors of length sqrt(4), over sqrt(4).
    self.assertLessEqual(largest(True), 2.001)
    if size > 1:
      self.assertGreater(largest(False), 1e4)

  def test_the_largest_logit_is_one_that_is_seen(self):
    model = language_model(layers=1)
    x = tokens()
    variables = init(model, x)
    largest = lambda x, mask: model.apply(
      variables, x, mask=mask, train=False, mutable=["diagnostics"]
    )[1]["diagnostics"]["block_0"]["max_logit"]
    expected = max(
      largest(x[i : i + 1, :length], None) for i, length in enumerate(LENGTHS)
    )
    np.testing.assert_allclose(largest(x, MASK), expected, rtol=1e-5)


class OtherTest(parameterized.TestCase):
  @parameterized.parameters(
    ({"heads": 3}, "width of 8 cannot be shared by 3 heads"),
    ({"heads": 8}, "even number of features"),
    ({"context": 5}, "6 positions, more than the context of 5"),
    ({"placement": "before"}, "placement must be one of pre, post"),
    ({"positions": "none"}, "positions must be one of rotary, learned"),
    ({"kernel_init": "he"}, "kernel_init must be one of gpt2, lecun, xavier"),
  )
  def test_refuses(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      language_model(**options).init(jax.random.key(0), tokens(), train=False)

  def test_dropout_is_for_training(self):
    model = language_model(dropout=0.5)
    variables = init(model, tokens())
    run = lambda key, train: model.apply(
      variables, tokens(), train=train, rngs={"dropout": jax.random.key(key)}
    )
    chex.assert_trees_all_equal(run(0, False), run(1, False))
    self.assertGreater(np.abs(run(0, True) - run(1, True)).max(), 1e-3)

  def test_half_precision_computes_and_float32_stores(self):
    model = language_model(dtype=jnp.bfloat16, qk_norm=True)
    # Attention of JAX itself mixes types.
    with jax.numpy_dtype_promotion("standard"):
      logits, variables = jax.eval_shape(
        lambda: model.init_with_output(jax.random.key(0), tokens(), train=False)
      )
    self.assertEqual(logits.dtype, jnp.float32)
    for leaf in jax.tree.leaves(variables):
      self.assertEqual(leaf.dtype, jnp.float32)
