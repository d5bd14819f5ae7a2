"""Signals of a net, layer by layer."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest

from experiments.lab.data.batch import Batch
from experiments.lab.models.nets import MLP
from experiments.lab.models.norms import norm_factory
from experiments.lab.probes import signals


def data(count=40):
  rng = np.random.default_rng(0)
  inputs = rng.normal(size=(count, 6)).astype(np.float32)
  return Batch(
    jnp.asarray(inputs), jnp.asarray(inputs[:, :3].argmax(axis=1), jnp.int32)
  )


class SignalsTest(absltest.TestCase):
  def test_signals_are_those_of_the_layers(self):
    model = MLP(norm=norm_factory("ln"), hidden=(8, 8), num_classes=3)
    batch = data()
    found = signals.at_init(model, [0, 1], batch)
    self.assertEqual(found["gradient"].shape, (2, 2))
    np.testing.assert_allclose(found["spread"], 1, rtol=1e-3)
    variables = model.init(jax.random.key(0), batch.inputs, train=False)
    inputs = signals.activation_inputs(
      model, variables, batch.inputs, train=False
    )
    self.assertLen(inputs, 2)
    logits = model.apply(variables, batch.inputs, train=False)
    last = variables["params"]["Dense_2"]
    np.testing.assert_allclose(
      np.maximum(inputs[1], 0) @ last["kernel"] + last["bias"][None],
      logits,
      rtol=1e-4,
      atol=1e-5,
    )

  def test_variance_shift_sees_other_inputs(self):
    model = MLP(norm=norm_factory("bn", momentum=0.5), hidden=(8, 8))
    inputs = data(4000).inputs
    variables = model.init(jax.random.key(0), inputs, train=False)
    for _ in range(30):
      _, changed = model.apply(
        variables, inputs, train=True, mutable=["batch_stats"]
      )
      variables = {**variables, **changed}
    same = signals.variance_shift(model, inputs, variables)
    np.testing.assert_allclose(same, 1, atol=0.01)
    # A first layer with twice the input has four times the variance behind it.
    other = signals.variance_shift(model, 2 * inputs, variables)
    self.assertGreater(other, 2)


if __name__ == "__main__":
  absltest.main()
