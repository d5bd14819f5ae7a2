"""The net that paints, its training, and settings that are refused."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from experiments.lab.errors import RefusedError
from experiments.lab.models.norms import norm_factory
from experiments.style import __main__ as style
from experiments.style import tasks
from experiments.style.nets import StyleNorm, Stylizer
from experiments.style.training import Arm, Sizes, Trainer, change


def painter(norm, **options):
  """Returns a function that paints with an untrained net, and its variables."""
  model = Stylizer(norm, widths=(4, 8), blocks=1, **options)

  @jax.jit
  def initial():
    noise = jax.random.uniform(jax.random.key(2), (8, 16, 16, 3))
    variables = model.init(jax.random.key(1), noise, train=False)
    # Statistics of some data: those at first, 0 and 1, are no use.
    _, updates = model.apply(
      variables, noise, train=True, mutable=["batch_stats"]
    )
    return {**variables, **updates}

  variables = initial()

  @jax.jit
  def paint(x, style=None):
    return model.apply(variables, x, style, train=False)

  return paint, variables


class ContrastTest(absltest.TestCase):
  def test_instance_norm_removes_gain_and_offset(self):
    x = jax.random.uniform(jax.random.key(0), (3, 16, 16, 3))
    with_in, _ = painter(norm_factory("in", epsilon=1e-12))
    with_bn, _ = painter(norm_factory("bn"))
    for gain, offset in ((0.5, 0.25), (0.3, 0.0), (1.5, -0.2)):
      other = gain * x + offset
      np.testing.assert_allclose(with_in(other), with_in(x), atol=1e-4)
      self.assertGreater(change(with_bn(x), with_bn(other)), 0.05)


class StylesTest(absltest.TestCase):
  def test_gain_and_bias_of_each_style(self):
    norm = StyleNorm(
      norm_factory("in", use_scale=False, use_bias=False), styles=2
    )
    x = jax.random.normal(jax.random.key(0), (3, 4, 4, 5))
    rng = np.random.default_rng(0)
    scale, bias = rng.normal(size=(2, 2, 5)).astype(np.float32)
    y = norm.apply(
      {"params": {"scale": scale, "bias": bias}},
      x,
      jnp.array([1, 0, 1]),
      train=False,
    )
    for n, number in enumerate((1, 0, 1)):
      one = np.asarray(x[n], np.float64)
      plain = (one - one.mean((0, 1))) / np.sqrt(one.var((0, 1)) + 1e-6)
      np.testing.assert_allclose(
        y[n], plain * scale[number] + bias[number], rtol=1e-4, atol=1e-5
      )

  def test_only_the_norms_depend_on_the_style(self):
    norm = norm_factory("in", use_scale=False, use_bias=False)
    _, variables = painter(norm, styles=3)
    shapes = {
      name: {key: leaf.shape for key, leaf in layer.items()}
      for name, layer in variables["params"].items()
      if not name.startswith("Conv")
    }
    self.assertLen(shapes, 5)  # Two, two of the block, one behind it.
    for shape in shapes.values():
      self.assertEqual({*shape}, {"scale", "bias"})
      self.assertEqual(shape["scale"][0], 3)

  def test_instance_norm_erases_a_style_at_the_input(self):
    x = jax.random.uniform(jax.random.key(0), (2, 16, 16, 3))
    first, last = jnp.array([0, 0]), jnp.array([2, 2])
    for norm, erased in (("in", True), ("bn", False)):
      paint, _ = painter(norm_factory(norm), styles=3, told="input")
      apart = change(paint(x, first), paint(x, last))
      self.assertEqual(apart < 1e-3, erased)

  def test_a_place_that_does_not_exist(self):
    with self.assertRaisesRegex(ValueError, "told must be one of"):
      painter(norm_factory("in"), styles=3, told="output")


class TrainerTest(absltest.TestCase):
  def test_it_learns(self):
    task = tasks.load(20)
    sizes = Sizes((4, 4), 0, 40, 2, content_weight=0.2)
    with jax.numpy_dtype_promotion("standard"):  # Of optax.
      trainer = Trainer(Arm("in", (0, 2)), sizes, task)
      found = trainer([0.0, 0.03], [0])
    shapes = {name: values.shape[2:] for name, values in found.items()}
    self.assertEqual(
      shapes,
      {
        **dict.fromkeys(("loss", "style", "content"), (2,)),
        **dict.fromkeys(("running", "faint"), (2,)),
        **dict.fromkeys(("validation", "change", "apart"), ()),
        "steps": (40,),
        "pictures": (2, 2, 80, 80, 3),
      },
    )
    untrained, trained = found["loss"][:, 0]
    self.assertTrue((trained < 0.7 * untrained).all(), found["loss"])
    np.testing.assert_allclose(found["running"], found["loss"], rtol=1e-5)
    # Untrained, gains and biases of all styles are equal.
    self.assertLess(found["apart"][0, 0], 1e-6)
    self.assertGreater(found["apart"][1, 0], 0.01)

  def test_batch_norm_has_two_kinds_of_statistics(self):
    task = tasks.load(20)
    sizes = Sizes((2, 2), 0, 3, 2, content_weight=0.2)
    with jax.numpy_dtype_promotion("standard"):
      found = Trainer(Arm("bn"), sizes, task)([0.01], [0])
    self.assertGreater(np.abs(found["running"] / found["loss"] - 1).max(), 1e-3)


class RefusalTest(parameterized.TestCase):
  @parameterized.parameters(
    ({"widths": (8,)}, "two numbers"),
    ({"crop": 30}, "multiple of 4"),
    ({"crop": 16}, "multiple of 4 from 20"),
    ({"crop": 84}, "to 80"),
  )
  def test_settings_that_cannot_be(self, settings, message):
    with self.assertRaisesRegex(RefusedError, message):
      style.measure(style.Config(**settings), run=None)


if __name__ == "__main__":
  absltest.main()
