"""Batch sizes: controls in which the effect of every claim is absent."""

import contextlib
import io
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from experiments import batch_size
from experiments.lab import study
from experiments.lab.data import arrays

SEEDS = 20


def results(**means):
  """Returns an arm for each pair of a name such as mlp_bn_2 and an error."""
  rng = np.random.default_rng(0)
  arms = {}
  for name, mean in means.items():
    model, norm, size = name.split("_")
    error = rng.normal(mean, 0.2, SEEDS)
    arms[model, norm, int(size)] = {"error": error, "reestimated": error}
  return arms


# What the source finds, in points.
CLAIMED = {
  "mlp_bn_2": 22, "mlp_gn_2": 3, "mlp_bn_32": 3, "mlp_gn_32": 3, "mlp_gn_8": 3,
  "mlp_gn_1": 3, "cnn_bn_2": 2.5, "cnn_gn_2": 2,
}  # fmt: skip


class ControlTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    folder = self.enter_context(tempfile.TemporaryDirectory())
    self.run_ = study.Run(pathlib.Path(folder))
    self.enter_context(contextlib.redirect_stdout(io.StringIO()))
    # Optax mixes integers and floats, and the hyperparameters with both.
    self.enter_context(jax.numpy_dtype_promotion("standard"))

  def verdicts(self):
    return {f.claim: f.verdict for f in self.run_.findings()}

  def test_confirms_what_is_claimed(self):
    batch_size.judge(results(**CLAIMED), self.run_)
    self.assertEqual(
      self.verdicts(), {claim.name: "CONFIRMED" for claim in batch_size.CLAIMS}
    )

  @parameterized.parameters(
    ("worse_at_2", {"mlp_bn_2": 6}, "SMALLER THAN CLAIMED"),
    ("worse_at_2", {"mlp_bn_2": 2}, "REFUTED"),
    ("worse_at_2_reestimated", {"mlp_bn_2": 2}, "REFUTED"),
    ("no_worse_at_32", {"mlp_bn_32": 5}, "REFUTED"),
    ("group_norm_at_2", {"mlp_gn_2": 5}, "REFUTED"),
    ("group_norm_at_1", {"mlp_gn_1": 5}, "REFUTED"),
    ("convolutional_no_worse_at_2", {"cnn_bn_2": 5}, "REFUTED"),
    ("positions_help", {"cnn_bn_2": 21}, "UNRESOLVED"),
    ("positions_help", {"cnn_bn_2": 30}, "REFUTED"),
  )
  def test_fails_without_the_effect(self, claim, changes, verdict):
    batch_size.judge(results(**CLAIMED | changes), self.run_)
    self.assertEqual(self.verdicts()[claim], verdict)

  def test_the_norm_removed(self):
    """Batch norm replaced by group norm is not worse than group norm."""
    config = batch_size.Config(seeds=6, examples=256, hidden=(16,))
    pool = arrays.load_pool("digits")
    pool = pool._replace(examples=jax.tree.map(jnp.asarray, pool.examples))
    arm = batch_size.train(
      ("mlp", "gn", 2), config, pool, [0.3], config.seed_numbers
    )
    same = {name: values[0] for name, values in arm.items()}
    batch_size.judge(
      {("mlp", "bn", 2): same, ("mlp", "gn", 2): same}, self.run_
    )
    self.assertEqual(self.verdicts()["worse_at_2"], "UNRESOLVED")


if __name__ == "__main__":
  absltest.main()
