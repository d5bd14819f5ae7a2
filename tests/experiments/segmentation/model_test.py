"""The U-Net: sizes, what its norms see, and what an answer depends on."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest

from experiments.lab.models.norms import norm_factory
from experiments.segmentation.model import UNet


def unet(norm, **options):
  return UNet(norm=norm_factory(norm), num_classes=3, hidden=(8, 16), **options)


class UNetTest(absltest.TestCase):
  def test_what_the_norms_see(self):
    shapes = []

    def seen(x):
      shapes.append(x.shape)
      return x

    model = UNet(
      norm=lambda train: seen,
      num_classes=5,
      hidden=(4, 8, 12),
      convolutions=2,
    )
    x = jax.ShapeDtypeStruct((2, 16, 24, 1), jnp.float32)
    logits, _ = jax.eval_shape(
      lambda x: model.init_with_output(jax.random.key(0), x, train=True), x
    )
    self.assertEqual(logits.shape, (2, 16, 24, 5))
    expected = [(16, 24, 4), (8, 12, 8), (4, 6, 12), (8, 12, 8), (16, 24, 4)]
    expected = [(2, *shape) for shape in expected for _ in range(2)]
    self.assertEqual(shapes, expected)

  def test_sides_that_cannot_be_halved(self):
    with self.assertRaisesRegex(ValueError, "multiples of 2, got"):
      unet("none").init(jax.random.key(0), jnp.zeros((1, 8, 9, 1)), train=False)

  def test_what_an_answer_depends_on(self):
    """On pixels nearby; with gn and in on the area, with bn on the batch."""
    rng = np.random.default_rng(0)
    whole = jnp.asarray(rng.normal(size=(2, 48, 48, 1)), jnp.float32)
    crop = whole[:, 12:36, 12:36]
    changes = {}
    for norm in ("none", "gn", "in", "bn"):
      model = unet(norm)
      variables = model.init(jax.random.key(0), crop, train=False)
      apply = jax.jit(
        functools.partial(model.apply, mutable=["batch_stats"]),
        static_argnames="train",
      )

      def middle(x, at, train=False, apply=apply, variables=variables):
        logits, _ = apply(variables, x, train=train)
        return np.asarray(logits[0, at : at + 2, at : at + 2])

      alone = middle(crop, 11)
      changes[norm] = [
        np.abs(middle(whole, 23) - alone).max(),
        np.abs(middle(crop[:1], 11) - alone).max(),
        np.abs(
          middle(crop[:1], 11, train=True) - middle(crop, 11, train=True)
        ).max(),
      ]
    for norm, depends in {
      "none": (False, False, False),
      "gn": (True, False, False),
      "in": (True, False, False),
      "bn": (False, False, True),
    }.items():
      found = tuple(bool(change > 1e-4) for change in changes[norm])
      self.assertEqual(found, depends, f"{norm}: {changes[norm]}")


if __name__ == "__main__":
  absltest.main()
